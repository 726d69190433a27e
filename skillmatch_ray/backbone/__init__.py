"""The frozen multilingual E5: resolve weights, tokenise, encode sections."""
