"""Sources: where a server learns which versions there should be."""
