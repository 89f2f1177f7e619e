"""The search by NNI."""
