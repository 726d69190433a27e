"""The built-in multilingual taxonomy and dataset generator."""
