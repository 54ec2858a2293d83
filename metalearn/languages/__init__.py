"""Wing 1: formal languages. Grammars and evaluation languages, language models, meta-training, adaptation, scores."""
