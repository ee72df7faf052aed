"""Language models behind two small protocols: token ids in and out, or text in and out."""
