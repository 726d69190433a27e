"""Studies: small controlled experiments that say what helps matching, how much, and how sure that is."""
