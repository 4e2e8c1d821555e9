"""Pictures and words to vectors, and vectors to answers: encoders, search, collections, evaluation."""
