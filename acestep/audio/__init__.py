"""Sound as samples and as files: decode, resample, normalise, encode, tag. Torch-free."""
