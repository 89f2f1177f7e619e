"""What an architecture must be for another tool to have a model of it."""

from nas_growclip.models.arch import TOKENIZER_VOCAB_SIZE, ClipArch


def check_exportable(arch: ClipArch, tool: str) -> None:
    """Refuse what none of the other tools has.

    Raises:
        ValueError: At a shared encoder, heads that do not fill the width, or another vocabulary.
    """
    if arch.shared.depth:
        raise ValueError(
            f"{tool} has no shared encoder, and without its {arch.shared.depth} blocks the model "
            "would compute something else: nothing of it can be left out. Export it with --format "
            "transformers, onnx or torch."
        )
    for name, tower in (("image", arch.image), ("text", arch.text)):
        if tower.num_heads * tower.head_dim != tower.width:
            raise ValueError(
                f"{tool} takes {name} heads whose dimensions add up to the width, but here "
                f"{tower.num_heads} heads of {tower.head_dim} stand in a width of {tower.width}. "
                "Export it with --format transformers, onnx or torch."
            )
    if arch.text.tokenizer is None and arch.text.vocab_size != TOKENIZER_VOCAB_SIZE:
        raise ValueError(
            f"{tool} with CLIP's tokenizer has {TOKENIZER_VOCAB_SIZE} tokens, but this model has "
            f"{arch.text.vocab_size}. Export it with --format transformers, onnx or torch."
        )
