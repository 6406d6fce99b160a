"""Parts that several methods share: options, prompts, classifiers, embeddings and the training loop."""
