"""The examiner: a small network of its own that says which things a picture shows, where, in which colour and style."""
