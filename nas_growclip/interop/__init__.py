"""Models of other tools in, grown models out: OpenCLIP, timm towers, Hugging Face."""
