"""What a training run is: four frozen, validated configs and their sum, `RunSpec`.

Loads without torch. Validation is strict (`"200"` is not 200), unknown keys are errors, and validating changes nothing.
`lmcore.runfile.run_file` reads a config from a YAML file, and `sweeps.spec.load` reads a whole sweep.

>>> run = RunSpec(model=ModelConfig(d_model=64), optim=OptimConfig(lr=1e-3))
>>> run.steps, run.warmup_steps, run.tokens_per_step
(200, 10, 2048)
"""

import warnings
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

DEFAULT_VOCAB_SIZE = 2048
DEFAULT_STEPS = 200
DEFAULT_BASE_WIDTH = 64  # of mup
DEFAULT_POINTS = 200  # of a training curve

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
BranchFraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Config(BaseModel):
    """Base of all configs: frozen, strict, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


class ModelConfig(Config):
    """Architecture of a decoder-only Transformer without biases; `lmcore.model` builds it."""

    vocab_size: PositiveInt = DEFAULT_VOCAB_SIZE
    """V, tokens in the vocabulary."""
    d_model: PositiveInt = 128
    """D, width of the residual stream; a multiple of num_heads."""
    num_layers: PositiveInt = 4
    """N, Transformer blocks."""
    num_heads: PositiveInt = 4
    """H, attention heads; each has d_model / num_heads channels, an even number with positions: rope."""
    num_kv_heads: PositiveInt | None = None
    """Heads of keys and values, a divisor of num_heads: each is shared by num_heads / num_kv_heads query heads
    (grouped-query attention; 1 is multi-query attention). null: num_heads, so that none is shared."""
    d_ff: PositiveInt = 352
    """F, hidden width of the feed-forward network."""
    context_length: PositiveInt = 128
    """T, tokens in a training window and the longest input."""
    norm: Literal["pre", "post", "none"] = "pre"
    """RMSNorm before each sublayer and at the end; after each residual sum; or nowhere."""
    positions: Literal["rope", "none"] = "rope"
    """Rotary position embedding (half-split pairs), or no positions at all."""
    qk_norm: bool = False
    """RMSNorm over the channels of each query and key head, before the rotary embedding, as in Qwen3."""
    ffn: Literal["swiglu", "gelu", "silu", "relu"] = "swiglu"
    """Gated feed-forward network of three matrices, or an ungated one of two."""
    tie_embeddings: bool = False
    """Use the token embedding as the output head."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary frequencies."""
    norm_eps: PositiveFloat = 1e-5
    """Added to the mean square in RMSNorm."""
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.0
    """Fraction, below 1, of the channels that training sets to 0 in the output of the embedding and of every attention
    and feed-forward network, as nanoGPT does; attention weights keep all of theirs."""
    parametrization: Literal["standard", "mup"] = "standard"
    """How initial values and learning rates depend on the width, one of `lmcore.parametrization.PARAMETRIZATIONS`. mup
    (maximal update parametrization): a learning rate that suits a narrow model suits a wide one."""
    base_width: PositiveInt | None = None
    """With mup, the d_model at which it is the standard parametrization. All widths to compare share it. null: 64."""
    base_head_dim: PositiveInt | None = None
    """With mup, for heads that widen with the model: queries times keys are multiplied by sqrt(base_head_dim) /
    head_dim, which at head_dim = base_head_dim is the standard 1 / sqrt(head_dim). null: always 1 / sqrt(head_dim)."""

    @property
    def width_ratio(self) -> float:
        """m, d_model / base_width with mup; 1 without."""
        return 1.0 if self.parametrization == "standard" else self.d_model / (self.base_width or DEFAULT_BASE_WIDTH)

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: num_kv_heads, by default num_heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def kv_width(self) -> int:
        """Channels of all keys, or of all values: d_model unless heads share them."""
        return self.kv_heads * self.head_dim

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.num_heads:
            raise ValueError(
                f"num_heads must divide d_model, but {self.num_heads} does not divide {self.d_model}; "
                f"choose {_nearest_divisor(self.d_model, self.num_heads)} heads"
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(
                f"rope needs an even number of channels per head, but d_model / num_heads is {self.head_dim}; "
                "change one of them, or set positions: none"
            )
        if self.num_heads % self.kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads, but {self.kv_heads} does not divide {self.num_heads}; "
                f"choose {_nearest_divisor(self.num_heads, self.kv_heads)} heads"
            )
        return self

    @model_validator(mode="after")
    def _base_of_mup(self) -> Self:
        for name in ("base_width", "base_head_dim"):
            value = getattr(self, name)
            if value is not None and self.parametrization == "standard":
                raise ValueError(
                    f"{name} must not be given with the standard parametrization, which has no base (got {value}); "
                    "leave it out, or set parametrization: mup"
                )
        return self


BinType = Literal[
    "uint8", "uint16", "uint32", "int32", "int64", "uint16-big-endian", "uint32-big-endian", "int64-big-endian"
]


# `data.copy` is a field like any other; pydantic warns because BaseModel has a deprecated method of that name.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class DataConfig(Config):
        """The tokens to train and validate on."""

        source: Annotated[str, Field(min_length=1)] = "stdlib"
        """`stdlib` (the running Python's standard library), or a path of text or tokens: a file, a folder, or a pattern
        such as `shards/*.bin`. Text is plain, .jsonl, .parquet, or a data set saved by `datasets`; tokens are .npy or
        .bin."""
        val_source: Annotated[str, Field(min_length=1)] | None = None
        """Validation data of the same kind as `source`; by default a part of `source` is held out."""
        tokenizer: Annotated[str, Field(min_length=1)] | None = None
        """Path of a Hugging Face tokenizer.json; by default a byte-level BPE is trained on the text."""
        vocab_size: PositiveInt | None = None
        """Size of the vocabulary: of the BPE to train (default 2048), or of the tokens in a .npy or .bin."""
        bin_dtype: Literal["auto", BinType] = "auto"
        """Type of the tokens in a .bin. auto: as its bytes show; uint16, which nanoGPT writes, if they show nothing."""
        text_field: Annotated[str, Field(min_length=1)] = "text"
        """Field of a record that is its text, in .jsonl, .parquet and saved data sets."""
        end_of_text: Annotated[str, Field(min_length=1)] | None = None
        """Token that ends a document; in text it separates documents, as <|endoftext|> does. By default it is what the
        files beside the tokenizer.json call eos_token or bos_token, or has a usual name."""
        copy: Literal["auto", "always", "never"] = "auto"  # type: ignore[assignment]
        """Whether token files are copied to the run's folder. auto: up to 1 GiB; larger ones must stay where they
        are."""
        val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
        """Part of `source` held out for validation if there is no val_source."""
        seed: Seed = 0
        """Training batch s of a run depends on (data.seed, s) only."""
        fingerprint: Annotated[str, Field(min_length=1)] | None = None
        """Fingerprint of the tokens that are expected, as best/<size>.yaml has it: a note says if the data have another
        one; null expects nothing."""


class TrainConfig(Config):
    """How long a run trains, with what batches, and on which device."""

    steps: PositiveInt | None = None
    """Updates to make. At most one of steps, tokens and tokens_per_parameter is given; with none, there are 200."""
    tokens: PositiveInt | None = None
    """Tokens to train on, rounded to whole updates, at least one."""
    tokens_per_parameter: PositiveFloat | None = None
    """Tokens to train on for each non-embedding parameter of the model, rounded to whole updates, at least one."""
    batch_size: PositiveInt = 16
    """B, windows per update."""
    micro_batch_size: PositiveInt | None = None
    """Windows of one forward and backward pass, a divisor of batch_size: gradients of several passes are added up to
    one update, which takes the memory of this many windows and of summed gradients. null: batch_size, one pass."""
    branches: Annotated[tuple[BranchFraction, ...], Field(strict=False)] | None = None
    """With optim.schedule: wsd, fractions of the run, ascending, such as [0.25, 0.5]. For each, the run's state before
    its decay is decayed on a side branch, which gives the finished model of a run of that fraction of the updates, and
    the run goes on as if there had been none. 1 is the run itself, and may be left out. null: no branches."""
    eval_every: PositiveInt = 25
    """Updates between reports; there is also a report after the last update."""
    eval_tokens: PositiveInt | None = None
    """Tokens between reports, each of which comes after the update that ends nearest; null: those of eval_every
    updates. A sweep whose trials have different batch sizes sets it, so that they report at equal tokens."""
    eval_windows: PositiveInt = 48
    """Validation windows, the same for every trial; fewer if the validation data are short."""
    final_eval_windows: Literal["auto"] | PositiveInt = "auto"
    """Validation windows after the last update; fewer if the validation data are short. auto: as many as cost 5 % of
    the run's training in FLOPs, and no fewer than eval_windows."""
    log_every: Literal["auto"] | PositiveInt = "auto"
    """Updates between points of the training curve (loss, gradient norm, learning rate), of which the first is at step
    0. auto: about 200 points a run. It changes no other number."""
    checkpoint_every: PositiveInt | None = None
    """Updates between checkpoints of a trial, which are made at reports; null: at every report."""
    seed: Seed = 0
    """Initial weights depend on this and the tensor's name only, dropout's masks on this and where they are used."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: cuda if there is one, else cpu. mps is the GPU of a Mac; it trains in float32, neither compiled nor as
    CUDA graphs."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrix products; weights and optimizer state stay float32. auto: bfloat16 on cuda, and on a cpu with
    instructions for it (avx512_bf16, amx_bf16) if all models are at least 256 wide; else float32."""
    compile: Literal["auto"] | bool = "auto"
    """torch.compile everything but head and loss. auto: on cuda, and on a cpu if compiling pays for what each engine of
    the sweep is expected to train, all its trials of a shape together; a sweep that is resumed keeps what it began
    with."""
    cuda_graphs: Literal["auto"] | bool = "auto"
    """Replay training steps as CUDA graphs. auto: on cuda, the only device that has them."""
    threads: Literal["auto"] | PositiveInt = "auto"
    """CPU threads of a trial. auto: 1, so that trials run side by side and are bit-reproducible."""

    @property
    def windows_per_pass(self) -> int:
        """Windows of one forward pass: micro_batch_size, by default batch_size."""
        return self.batch_size if self.micro_batch_size is None else self.micro_batch_size

    @model_validator(mode="after")
    def _whole_passes(self) -> Self:
        if self.batch_size % self.windows_per_pass:
            raise ValueError(
                f"micro_batch_size must divide batch_size, but {self.micro_batch_size} does not divide "
                f"{self.batch_size}; choose {_nearest_divisor(self.batch_size, self.windows_per_pass)}"
            )
        return self

    @model_validator(mode="after")
    def _ascending_branches(self) -> Self:
        fractions = self.branches or ()
        if any(a >= b for a, b in pairwise(fractions)):
            given = f"[{', '.join(f'{fraction:g}' for fraction in fractions)}]"
            raise ValueError(f"branches must ascend (got {given}); sort them, and list each once")
        return self

    @model_validator(mode="after")
    def _possible_on_mps(self) -> Self:
        if self.device == "mps":
            for name, other in (("dtype", "bfloat16"), ("compile", True), ("cuda_graphs", True)):
                if getattr(self, name) == other:
                    value = str(other).lower()
                    raise ValueError(f"{name} must not be {value} on an Apple GPU (got device: mps); leave it out")
        return self

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = {name: value for name in BUDGET_FIELDS if (value := getattr(self, name)) is not None}
        if len(given) > 1:
            first, *others = given
            also = " and ".join(f"{name} {given[name]:g}" for name in others)
            raise ValueError(f"{first} must be the only budget (got {given[first]:g}, and {also}); keep one of them")
        return self


BUDGET_FIELDS = ("steps", "tokens", "tokens_per_parameter")
"""Fields of TrainConfig of which at most one says how long a run trains."""


class OptimConfig(Config):
    """Optimizer, learning-rate schedule and gradient clipping."""

    name: Literal["adamw", "muon"] = "adamw"
    """Optimizer, one of `lmcore.optimizers.OPTIMIZERS`: AdamW with decoupled decay; or Muon for the matrices of
    attention and feed-forward networks, with AdamW for embedding, head and norms."""
    schedule: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Learning-rate schedule, one of `lmcore.schedule.SCHEDULES`: linear warm-up, then decay as a cosine or in a line;
    or lr until the last decay_fraction of the updates (wsd: warm-up, stable, decay), or to the end."""
    lr: PositiveFloat = 3e-3
    """Maximum learning rate, reached after warm-up."""
    min_lr_ratio: Fraction = 0.1
    """Final learning rate, as a fraction of lr."""
    beta1: Beta = 0.9
    """Decay of the first moment."""
    beta2: Beta = 0.95
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay, multiplied by the learning rate."""
    warmup_fraction: Fraction = 0.05
    """Fraction of the updates spent warming up."""
    decay_fraction: Fraction = 0.2
    """Fraction of the updates, the last ones, in which schedule: wsd decays; less if warm-up leaves less."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest l2 norm of the whole gradient; null: no clipping."""
    muon_lr: PositiveFloat | None = None
    """Maximum learning rate of the matrices that Muon updates, with name: muon; it follows the same schedule. null: lr,
    which suits both, because Muon's steps are scaled to the root mean square of AdamW's."""
    muon_momentum: Beta = 0.95
    """Decay of Muon's momentum, with name: muon."""


class RunSpec(Config):
    """One complete training run. A trial of a sweep is one; `lmcore.trainer.Trainer` trains K of them."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()

    @model_validator(mode="after")
    def _possible_branches(self) -> Self:
        if self.train.branches:
            from lmcore.branches import check_branches  # lmcore.branches imports this module

            check_branches(self)
        return self

    @property
    def steps(self) -> int:
        """Updates to make: the budget of `train` in whole updates.

        train.tokens_per_parameter counts parameters without embedding and output head, the N of scaling fits
        (`lmcore.params`): 20 of them are Chinchilla's budget for large models, whose embeddings hardly count.

        >>> RunSpec(train=TrainConfig(tokens=100_000)).steps  # of 2,048 tokens each
        49
        """
        if self.train.steps is not None:
            return self.train.steps
        tokens = self.train.tokens
        if self.train.tokens_per_parameter is not None:
            from lmcore.params import count_parameters  # lmcore.params imports this module

            tokens = round(self.train.tokens_per_parameter * count_parameters(self.model).non_embedding)
        if tokens is None:
            return DEFAULT_STEPS
        return max(1, (2 * tokens + self.tokens_per_step) // (2 * self.tokens_per_step))  # halves are rounded up

    @property
    def warmup_steps(self) -> int:
        """T_w, updates of warm-up."""
        return round(self.optim.warmup_fraction * self.steps)

    @property
    def decay_steps(self) -> int:
        """T_d, updates in which schedule: wsd decays, if warm-up leaves so many."""
        return round(self.optim.decay_fraction * self.steps)

    @property
    def log_every(self) -> int:
        """Updates between points of the training curve: those of `train.log_every`.

        >>> [RunSpec(train=TrainConfig(steps=steps)).log_every for steps in (10, 200, 1000)]
        [1, 1, 5]
        """
        asked = self.train.log_every
        return max(1, round(self.steps / DEFAULT_POINTS)) if asked == "auto" else asked

    def in_steps(self) -> "RunSpec":
        """The same run with its budget as train.steps.

        >>> RunSpec(train=TrainConfig(tokens=100_000)).in_steps().train.steps
        49
        """
        budget = {**dict.fromkeys(BUDGET_FIELDS), "steps": self.steps}
        return self.model_copy(update={"train": self.train.model_copy(update=budget)})

    @property
    def tokens_per_step(self) -> int:
        """Tokens per update."""
        return self.train.batch_size * self.model.context_length

    @property
    def static_signature(self) -> tuple[tuple[str, Any], ...]:
        """Equal for two runs if and only if they can be slots of one population.

        Runs with dropout share one whatever their rates, but not with runs without, whose program has no masks.
        `train.log_every` and `train.branches` may differ: they are no matter of the program.
        """
        fields = {path: value for path, value in flatten(self).items() if path not in NOT_IN_SIGNATURE}
        shared = tuple((path, value) for path, value in fields.items() if FIELD_ROLES[path] != "slot vector")
        return (*shared, ("model.dropout > 0", self.model.dropout > 0))


Role = Literal["slot vector", "static", "sweep constant"]

_FIELDS_BY_ROLE: dict[Role, dict[str, str]] = {
    # Each slot of a population has its own value.
    "slot vector": {
        "model": "tie_embeddings dropout",
        "train": "steps tokens tokens_per_parameter seed",
        "data": "seed",
        "optim": "schedule lr min_lr_ratio beta1 beta2 eps weight_decay warmup_fraction decay_fraction clip_norm "
        "muon_lr muon_momentum",
    },
    # Changes shapes or the program: all slots of a population share it.
    "static": {
        "model": "vocab_size d_model num_layers num_heads num_kv_heads d_ff context_length norm positions qk_norm ffn "
        "rope_theta norm_eps parametrization base_width base_head_dim",
        "train": "batch_size micro_batch_size dtype",
        "optim": "name",
    },
    # Makes trials of a sweep comparable: all trials share it.
    "sweep constant": {
        "train": "device compile cuda_graphs threads eval_every eval_tokens eval_windows final_eval_windows "
        "log_every checkpoint_every branches",
        "data": "source val_source tokenizer vocab_size bin_dtype text_field end_of_text copy val_fraction fingerprint",
    },
}
FIELD_ROLES: dict[str, Role] = {
    f"{part}.{name}": role
    for role, parts in _FIELDS_BY_ROLE.items()
    for part, names in parts.items()
    for name in names.split()
}
"""Role of every field of a run, by its dotted path."""
NOT_IN_SIGNATURE = ("train.log_every", "train.branches")
"""Sweep constants that slots of one population need not share."""


def flatten(run: RunSpec) -> dict[str, Any]:
    """`{"optim.lr": 3e-3, ...}`: every field of a run under its dotted path."""
    return {f"{part}.{name}": value for part, fields in run.model_dump().items() for name, value in fields.items()}


def _nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of `number` nearest to `wanted`, which does not divide it; 1 ends the search."""
    return next(d for distance in range(1, wanted) for d in (wanted - distance, wanted + distance) if number % d == 0)
