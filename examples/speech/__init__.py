"""Speech: sound to words; what the decoder attends to says when each word was spoken."""
