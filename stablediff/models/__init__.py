"""Networks only: tensors in, tensors out. Module names follow the diffusers checkpoint layout."""
