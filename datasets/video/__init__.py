"""Videos as training data: decoding, lists of labelled files, which frames make a clip, and augmentation of clips."""
