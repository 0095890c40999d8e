"""What a run takes of a GPU's memory: arithmetic on the model's sizes. Checked by benchmarks/memory.py."""

from dataclasses import dataclass


GIB = 2**30
# TRL computes logits in tiles of at most this many tokens and vocabulary entries (trl/kernels/chunked_logprob.py).
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a model that memory depends on, in numbers (of weights, features, tokens of the vocabulary).

    Attributes:
        linear (`int`): Weights of the linear layers within the decoder: what is quantized, and gets an adapter.
        other (`int`): All other weights; tied embeddings count once.
        adapter (`int`): Weights of the adapter.
        layers, hidden, intermediate, vocabulary (`int`): As in the model's configuration.
        query, key_value (`int`): Features of all query heads, and of all key heads.
        tied (`bool`): Whether input and output embeddings are one.
    """

    linear: int
    other: int
    adapter: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    query: int
    key_value: int
    tied: bool


@dataclass(frozen=True)
class Workload:
    """What is trained, and how.

    Attributes:
        method (`str`): `"full"`, `"lora"` or `"qlora"`.
        per_device_train_batch_size (`int`): Completions in a forward pass.
        sequences (`int`): Completions that transformers generation samples at once; 0 where vLLM does.
        prompt_length, completion_length (`int`): The longest, in tokens.
        reference (`bool`): Whether there is a reference model (`beta` is not 0).
        half (`bool`): Whether computing is in 16 bits: with autocast for float32 weights. On the CPU it is not.
        gradient_checkpointing (`bool`): Whether activations are computed again in the backward pass.
        engine (`float`): Bytes that colocated vLLM reserves.
    """

    method: str
    per_device_train_batch_size: int
    sequences: int = 0
    prompt_length: int = 256
    completion_length: int = 512
    reference: bool = False
    half: bool = True
    gradient_checkpointing: bool = True
    engine: float = 0.0


def model_sizes(model, rank: int) -> ModelSizes:
    """Return the sizes of a `PreTrainedModel`, with or without weights, and of LoRA of a rank on all linear layers.

    Raises:
        ValueError: for a model that the arithmetic does not hold for: one of experts, or of unknown width.
    """
    from torch import nn  # here, since `serl-trl plan --help` does without

    config = model.config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    if any(getattr(config, name, None) for name in names) or not hasattr(config, "intermediate_size"):
        raise ValueError(
            f"The memory of a model of type {config.model_type} is not known here, but of dense decoders with an "
            "intermediate_size, such as Qwen2.5 and Llama. Begin with a recipe of similar size."
        )
    layers = {module for module in model.modules() if isinstance(module, nn.Linear)} - {model.get_output_embeddings()}
    linear = sum(layer.weight.numel() for layer in layers)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelSizes(
        linear=linear,
        other=sum(parameter.numel() for parameter in model.parameters()) - linear,
        adapter=sum(rank * (layer.in_features + layer.out_features) for layer in layers),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        query=config.num_attention_heads * head_dim,
        key_value=(getattr(config, "num_key_value_heads", None) or config.num_attention_heads) * head_dim,
        tied=bool(config.tie_word_embeddings),
    )


def budget(sizes: ModelSizes, work: Workload) -> dict[str, float]:
    """Return the bytes of each part at the fullest moment, which is either in sampling or in the backward pass.

    The optimizer has its state, and an earlier batch of the step its gradients.
    """
    all_weights = sizes.linear + sizes.other
    compute = 2 if work.half else 4  # bytes of a number in matrix products
    if work.method == "full":
        weights, trained, trained_bytes = 4 * all_weights, all_weights, 4
    elif work.method == "lora":
        weights, trained, trained_bytes = compute * all_weights + 4 * sizes.adapter, sizes.adapter, 4
    else:
        # NF4: 4 bits a weight and a float32 scale for each 64 of them; the adapter in bfloat16, as TRL makes it.
        weights = (0.5 + 4 / 64) * sizes.linear + compute * sizes.other + 2 * sizes.adapter
        trained, trained_bytes = sizes.adapter, 2
    parts = {
        "weights": weights,
        # LoRA's reference is the base itself, with the adapter switched off.
        "reference model": 4 * all_weights if work.method == "full" and work.reference else 0,
        "optimizer": optimizer_bytes(trained, trained_bytes),
        "slow weights": 4 * trained,
        "vLLM": work.engine,
    }
    training = {
        "gradients": trained_bytes * trained,
        "activations": _activations(sizes, work, compute),
        "logits": _logits(sizes, work, compute),
    }
    # The trained weights are put by while the slow ones answer.
    sampling = {"sampling": _sampling(sizes, work, compute) + trained_bytes * trained}
    fullest = max(training, sampling, key=lambda phase: sum(phase.values()))
    return parts | {name: fullest.get(name, 0) for name in (*training, *sampling)}


def optimizer_bytes(weights: int, size: int) -> int:
    """Return the bytes of AdamW's two averages, for trained weights of `size` bytes each."""
    return 2 * size * weights


def _activations(sizes: ModelSizes, work: Workload, compute: int) -> float:
    """Bytes kept for the backward pass: of one layer with checkpointing, and then each layer's input, else of all."""
    tokens = work.per_device_train_batch_size * (work.prompt_length + work.completion_length)
    stream = 4 if work.method == "full" else compute  # of the residual stream, which has the embeddings' dtype
    # Per token and layer: two norms (input, normalized in float32, scaled), queries, keys and values with their
    # rotated copies, attention's output, and gate, its activation, up and their product.
    attention = 2 * sizes.query + 3 * sizes.key_value + sizes.query
    layer = tokens * (2 * (stream + 4 + compute) * sizes.hidden + compute * (attention + 4 * sizes.intermediate))
    if work.method != "full":
        # PEFT hands each of the seven adapters a float32 copy of its input.
        layer += tokens * (4 - compute) * 2 * (5 * sizes.hidden + sizes.query + sizes.intermediate)
    casts = compute * (sizes.linear + sizes.other) if work.method == "full" and work.half else 0  # autocast's copies
    gradients = tokens * compute * 3 * sizes.intermediate  # of the layer that the backward pass is in
    if work.gradient_checkpointing:
        return sizes.layers * tokens * stream * sizes.hidden + max(layer + gradients, casts)
    return sizes.layers * layer + casts + gradients


def _logits(sizes: ModelSizes, work: Workload, compute: int) -> float:
    """Bytes of a tile of logits with its gradient, and of the gradient of the output embeddings in float32."""
    rows = min(work.per_device_train_batch_size * (work.prompt_length + work.completion_length), TILE_TOKENS)
    columns = min(sizes.vocabulary, TILE_VOCABULARY)
    tile = rows * columns * (compute if work.half else 8.25 * 4)  # without Triton, 8 float32 steps of it and a mask
    head = 4 * sizes.vocabulary * sizes.hidden * (2 if sizes.tied else 1) if work.method == "full" else 0
    return tile + head


def _sampling(sizes: ModelSizes, work: Workload, compute: int) -> float:
    """Bytes of the key-value cache of transformers generation, grown by copying a layer, and of a token's logits."""
    cache = work.sequences * (work.prompt_length + work.completion_length) * 2 * sizes.key_value * compute
    return cache * (sizes.layers + 1) + work.sequences * sizes.vocabulary * 4 * 4
