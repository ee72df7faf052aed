"""Pages that need nothing but a browser: results and transcripts to look at, in one file."""
