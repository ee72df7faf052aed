"""Making the models: tokenizer, training data, supervised fine-tuning, and how good they are."""
