"""The table of operations: what each one is, in one place.

A node's operation is a name: `mx.add`, `update`, `site`.  This page has a constant for every name
that the library itself writes, and a row for every operation that there is: how many arguments it
takes, how it prints, and what is known of it.  Recording, running, printing, rewriting and the
file format all read it here, and none of them spells a name out.

Every function of MLX that a graph on disk may name is in the table.  Left out of it on purpose:
what evaluates, reads or writes files, compiles, transforms, builds kernels, moves devices or takes
functions, and `as_strided`, which reads memory that is none of its array's.  A name that the
installed MLX lacks does no harm; it is refused when it is used.

A row claims what is sure; where it is silent, nothing is claimed.
Never: imports mlx, or says how an operation is computed (that is `evaluate`'s).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# -- kinds of node that compute nothing: sources, and what needs the model or the user's Python ---

SITE = "site"  # the value that the model computes somewhere
CONSTANT = "constant"  # an array from outside
NUMBER = "number"  # a Python number from outside
PARAM = "param"  # a named hole
APPLY = "apply"  # mg.apply: a Python function that the graph cannot look into
GRAD = "grad"  # the gradient of a loss at a node, known when the forward is over
CALL = "call"  # a module of the model, called by hand on a value
SOURCES = frozenset({SITE, CONSTANT, NUMBER, PARAM})

# -- the library's own operations -----------------------------------------------------------------

GETITEM = "getitem"  # h[index]
UPDATE = "update"  # a copy of h with h[index] = value
ITEM = "item"  # an entry of a tuple, list, dict or object of arrays
PUT = "put"  # a copy of such a value with one entry replaced
LEAF = "leaf"  # the k-th array in a nested value
UNFLATTEN_LIKE = "unflatten_like"  # a nested value of these arrays
RESHAPE_LIKE = "reshape_like"
BROADCAST_LIKE = "broadcast_like"
ASTYPE_LIKE = "astype_like"
FULL_LIKE = "full_like"  # full_like(h, number): filled, in h's shape and dtype
SPLIT_PART = "split_part"  # the k-th part of mx.split
AT_STEPS = "at_steps"  # at_steps(steps, a, b): b at these steps of a generation, a at others
ARRAY_AND = "array.and"  # `a & b` of mx.array, for which mx has no function of one meaning
ARRAY_OR = "array.or"
ARRAY_XOR = "array.xor"
ARRAY_INVERT = "array.invert"
ARRAY_MAKE = "array.make"  # mx.array(...)
NORMAL_LIKE = "mx.random.normal_like"  # normal noise in h's shape and dtype
AT = {  # `h.at[index].add(v)`
    name: f"at.{name}" for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum")
}

# -- functions of MLX that the library names ------------------------------------------------------

MX_ABS = "mx.abs"
MX_ADD = "mx.add"
MX_ALL = "mx.all"
MX_ANY = "mx.any"
MX_ASTYPE = "mx.astype"
MX_BITWISE_AND = "mx.bitwise_and"
MX_BITWISE_OR = "mx.bitwise_or"
MX_BITWISE_XOR = "mx.bitwise_xor"
MX_DIVIDE = "mx.divide"
MX_EQUAL = "mx.equal"
MX_EXPAND_DIMS = "mx.expand_dims"
MX_FLATTEN = "mx.flatten"
MX_FLOOR_DIVIDE = "mx.floor_divide"
MX_FULL = "mx.full"
MX_GATHER_MM = "mx.gather_mm"
MX_GATHER_QMM = "mx.gather_qmm"
MX_GREATER = "mx.greater"
MX_GREATER_EQUAL = "mx.greater_equal"
MX_IMAG = "mx.imag"
MX_LEFT_SHIFT = "mx.left_shift"
MX_LESS = "mx.less"
MX_LESS_EQUAL = "mx.less_equal"
MX_LOGADDEXP = "mx.logaddexp"
MX_LOGICAL_AND = "mx.logical_and"
MX_LOGICAL_OR = "mx.logical_or"
MX_MATMUL = "mx.matmul"
MX_MATRIX_TRANSPOSE = "mx.matrix_transpose"
MX_MAX = "mx.max"
MX_MAXIMUM = "mx.maximum"
MX_MEAN = "mx.mean"
MX_MIN = "mx.min"
MX_MINIMUM = "mx.minimum"
MX_MOVEAXIS = "mx.moveaxis"
MX_MULTIPLY = "mx.multiply"
MX_NEGATIVE = "mx.negative"
MX_NOT_EQUAL = "mx.not_equal"
MX_ONES_LIKE = "mx.ones_like"
MX_PERMUTE_DIMS = "mx.permute_dims"
MX_POSITIVE = "mx.positive"
MX_POWER = "mx.power"
MX_PUT_ALONG_AXIS = "mx.put_along_axis"
MX_REAL = "mx.real"
MX_REMAINDER = "mx.remainder"
MX_RESHAPE = "mx.reshape"
MX_RIGHT_SHIFT = "mx.right_shift"
MX_SEGMENTED_MM = "mx.segmented_mm"
MX_SLICE = "mx.slice"
MX_SLICE_UPDATE = "mx.slice_update"
MX_SOFTMAX = "mx.softmax"
MX_SPLIT = "mx.split"
MX_SQUEEZE = "mx.squeeze"
MX_STOP_GRADIENT = "mx.stop_gradient"
MX_SUBTRACT = "mx.subtract"
MX_SUM = "mx.sum"
MX_SWAPAXES = "mx.swapaxes"
MX_TAKE = "mx.take"
MX_TAKE_ALONG_AXIS = "mx.take_along_axis"
MX_TRANSPOSE = "mx.transpose"
MX_TRI = "mx.tri"
MX_UNFLATTEN = "mx.unflatten"
MX_WHERE = "mx.where"
MX_ZEROS_LIKE = "mx.zeros_like"
NN_SOFTMAX = "nn.softmax"
NN_LOSSES_CROSS_ENTROPY = "nn.losses.cross_entropy"
NN_LOSSES_NLL_LOSS = "nn.losses.nll_loss"
TAKES_CLASSES = frozenset({NN_LOSSES_CROSS_ENTROPY, NN_LOSSES_NLL_LOSS})  # by number, along an axis


@dataclass(frozen=True, slots=True)
class Operation:
    """What is known of one operation.  Everything that is not said is not claimed."""

    name: str
    fewest: int = 0  # arguments
    most: int | None = None
    symbol: str = ""  # how it prints between two operands
    operators: tuple[str, ...] = ()  # Python's: `add` for __add__, __radd__ and __iadd__
    method: bool = False  # mx.array has it as a method, under the same name
    elementwise: bool = False  # entry by entry, its arguments broadcast against each other
    keeps_shape: bool = False  # called on one array, it gives that array's shape
    keeps_dtype: bool = False  # the dtype is its first argument's
    reshapes: bool = False  # the same entries in the same order, in another shape
    view: bool = False  # a part of its argument; writing into it writes through
    commutes: bool = False  # exact either way round, to the last bit
    lifts_numbers: bool = False  # Python numbers among its arguments become inputs of the run
    draws: bool = False  # takes from the random state; its first argument numbers the draw
    storable: bool = True  # a file may name it

    @property
    def compares(self) -> bool:
        """Whether it is one of Python's comparisons, which gives bools."""
        return self.symbol[:1] in ("<", ">", "=", "!")


# A name, how many arguments it has, its symbol, Python's operators for it, what is known of it.
# mx.maximum does not commute: it tells -0 from 0.  mx.power lifts no number: MLX treats small
# whole powers apart.
# fmt: off
_ROWS = (
    (APPLY,               "1-",  "",   "",            ""),
    (GETITEM,             "2",   "",   "",            "keeps_dtype view"),
    (UPDATE,              "3",   "",   "",            "keeps_shape keeps_dtype"),
    (ITEM,                "2",   "",   "",            "view"),
    (PUT,                 "3",   "",   "",            ""),
    (LEAF,                "2",   "",   "",            ""),
    (UNFLATTEN_LIKE,      "1-",  "",   "",            ""),
    (RESHAPE_LIKE,        "2",   "",   "",            "keeps_dtype reshapes"),
    (BROADCAST_LIKE,      "2",   "",   "",            "keeps_dtype"),
    (ASTYPE_LIKE,         "2",   "",   "",            "keeps_shape"),
    (FULL_LIKE,           "2",   "",   "",            "keeps_shape keeps_dtype"),
    (SPLIT_PART,          "4",   "",   "",            "keeps_dtype view"),
    (AT_STEPS,            "3",   "",   "",            ""),
    (ARRAY_AND,           "2",   "",   "and",         "elementwise commutes lifts_numbers"),
    (ARRAY_OR,            "2",   "",   "or",          "elementwise commutes lifts_numbers"),
    (ARRAY_XOR,           "2",   "",   "xor",         "elementwise commutes lifts_numbers"),
    (ARRAY_INVERT,        "1",   "",   "invert",      "elementwise keeps_shape keeps_dtype"),
    (ARRAY_MAKE,          "0-",  "",   "",            ""),
    (NORMAL_LIKE,         "2",   "",   "",            "draws"),
    (MX_ADD,              "2",   "+",  "add",         "elementwise commutes lifts_numbers"),
    (MX_SUBTRACT,         "2",   "-",  "sub",         "elementwise lifts_numbers"),
    (MX_MULTIPLY,         "2",   "*",  "mul",         "elementwise commutes lifts_numbers"),
    (MX_DIVIDE,           "2",   "/",  "truediv div", "elementwise lifts_numbers"),
    (MX_FLOOR_DIVIDE,     "2",   "//", "floordiv",    "elementwise lifts_numbers"),
    (MX_REMAINDER,        "2",   "%",  "mod",         "elementwise lifts_numbers"),
    (MX_POWER,            "2",   "**", "pow",         "elementwise"),
    (MX_MATMUL,           "2",   "@",  "matmul",      "lifts_numbers"),
    (MX_LEFT_SHIFT,       "2",   "",   "lshift",      "elementwise lifts_numbers"),
    (MX_RIGHT_SHIFT,      "2",   "",   "rshift",      "elementwise lifts_numbers"),
    (MX_LESS,             "2",   "<",  "lt",          "elementwise lifts_numbers"),
    (MX_LESS_EQUAL,       "2",   "<=", "le",          "elementwise lifts_numbers"),
    (MX_GREATER,          "2",   ">",  "gt",          "elementwise lifts_numbers"),
    (MX_GREATER_EQUAL,    "2",   ">=", "ge",          "elementwise lifts_numbers"),
    (MX_EQUAL,            "2",   "==", "eq",          "elementwise commutes lifts_numbers"),
    (MX_NOT_EQUAL,        "2",   "!=", "ne",          "elementwise commutes lifts_numbers"),
    (MX_MAXIMUM,          "2",   "",   "",            "elementwise lifts_numbers"),
    (MX_MINIMUM,          "2",   "",   "",            "elementwise lifts_numbers"),
    (MX_LOGADDEXP,        "2",   "",   "",            "elementwise lifts_numbers"),
    (MX_WHERE,            "3",   "",   "",            "elementwise lifts_numbers"),
    (MX_LOGICAL_AND,      "2",   "",   "",            "elementwise commutes"),
    (MX_LOGICAL_OR,       "2",   "",   "",            "elementwise commutes"),
    (MX_BITWISE_AND,      "2",   "",   "",            "elementwise commutes"),
    (MX_BITWISE_OR,       "2",   "",   "",            "elementwise commutes"),
    (MX_BITWISE_XOR,      "2",   "",   "",            "elementwise commutes"),
    (MX_NEGATIVE,         "1",   "",   "neg",         "elementwise keeps_shape keeps_dtype"),
    (MX_POSITIVE,         "1",   "",   "pos",         ""),
    (MX_ABS,              "1",   "",   "abs",         "elementwise keeps_shape method"),
    (MX_STOP_GRADIENT,    "1",   "",   "",            "elementwise keeps_shape keeps_dtype"),
    (MX_SOFTMAX,          "1-",  "",   "",            "keeps_shape"),
    (MX_ASTYPE,           "2",   "",   "",            "keeps_shape method"),
    (MX_REAL,             "1",   "",   "",            ""),
    (MX_IMAG,             "1",   "",   "",            ""),
    (MX_RESHAPE,          "2",   "",   "",            "reshapes view keeps_dtype method"),
    (MX_FLATTEN,          "1-3", "",   "",            "reshapes view keeps_dtype method"),
    (MX_UNFLATTEN,        "3",   "",   "",            "reshapes view keeps_dtype"),
    (MX_SQUEEZE,          "1-2", "",   "",            "reshapes view keeps_dtype method"),
    (MX_EXPAND_DIMS,      "2",   "",   "",            "reshapes view keeps_dtype"),
    (MX_TRANSPOSE,        "1-2", "",   "",            "view keeps_dtype method"),
    (MX_PERMUTE_DIMS,     "1-2", "",   "",            "view"),
    (MX_SWAPAXES,         "3",   "",   "",            "view keeps_dtype method"),
    (MX_MOVEAXIS,         "3",   "",   "",            "view keeps_dtype method"),
    (MX_MATRIX_TRANSPOSE, "1",   "",   "",            "view"),
    (MX_SPLIT,            "2-3", "",   "",            "view method"),
    *((name,              "3",   "",   "",            "") for name in AT.values()),
)
# fmt: on

# Every other function of MLX that there is an operation for: (namespace, what is known of them).
_FUNCTIONS = {
    ("mx", "elementwise keeps_shape method"): """
        cos exp log log10 log1p log2 reciprocal rsqrt sin sqrt square
    """,
    ("mx", "elementwise keeps_shape"): """
        arccos arcsin arctan ceil cosh erf expm1 floor isinf isnan logical_not sigmoid sign sinh
        tan tanh
    """,  # the shape stays; the dtype may not: mx.tanh of whole numbers is float
    ("mx", "method"): """
        all any argmax argmin conj cummax cummin cumprod cumsum diag diagonal logcumsumexp
        logsumexp max mean min prod round std sum var view
    """,
    ("mx", ""): """
        acos acosh addmm allclose arange arccosh arcsinh arctan2 arctanh argpartition argsort
        array_equal asarray asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d bartlett
        bitwise_invert bitwise_left_shift bitwise_right_shift blackman block_masked_mm
        broadcast_arrays broadcast_shapes broadcast_to can_cast clip concat concatenate conjugate
        contiguous conv1d conv2d conv3d conv_general conv_transpose1d conv_transpose2d
        conv_transpose3d convolve count_nonzero cumulative_prod cumulative_sum degrees depends
        dequantize diff divmod einsum einsum_path empty empty_like erfinv eye flip from_fp8 full
        full_like gather_mm gather_qmm gather_qqmm hadamard_transform hamming hanning identity
        inner isclose isdtype isfinite isneginf isposinf issubdtype kron linspace logical_xor
        matrix_norm median meshgrid minmax nan_to_num ones ones_like outer pad partition pow
        put_along_axis qqmm quantize quantized_matmul radians repeat result_type roll searchsorted
        segmented_mm slice slice_update sort stack take take_along_axis tensordot tile to_fp8 topk
        trace tri tril triu trunc unique unstack vecdot zeros zeros_like
    """,
    ("mx.linalg", ""): """
        cholesky cholesky_inv cross det eig eigh eigvals eigvalsh inv lu lu_factor norm pinv qr
        slogdet solve solve_triangular svd tri_inv
    """,
    ("mx.fast", ""): """
        cross_entropy gated_delta_update layer_norm rms_norm rope scaled_dot_product_attention
    """,
    ("mx.fft", ""): """
        fft fft2 fftfreq fftn fftshift ifft ifft2 ifftn ifftshift irfft irfft2 irfftn istft rfft
        rfft2 rfftfreq rfftn stft
    """,
    ("mx.random", "draws"): """
        bernoulli categorical gumbel laplace multivariate_normal normal permutation randint
        truncated_normal uniform
    """,
    ("mx.random", ""): "split",
    ("nn", ""): """
        celu elu gelu gelu_approx gelu_fast_approx glu hard_shrink hard_tanh hardswish leaky_relu
        log_sigmoid log_softmax mish prelu relu relu2 relu6 selu sigmoid silu softmax softmin
        softplus softshrink softsign step tanh
    """,
    ("nn.losses", ""): """
        binary_cross_entropy cosine_similarity_loss cross_entropy gaussian_nll_loss hinge_loss
        huber_loss kl_div_loss l1_loss log_cosh_loss margin_ranking_loss mse_loss nll_loss
        smooth_l1_loss triplet_loss
    """,
}


def _row(name: str, count: str, symbol: str, operators: str, known: str) -> Operation:
    fewest, dash, most = count.partition("-")
    last = int(most) if most else None if dash else int(fewest)
    claims: dict[str, Any] = dict.fromkeys(known.split(), True)
    if name == APPLY:
        claims["storable"] = False
    return Operation(name, int(fewest), last, symbol, tuple(operators.split()), **claims)


def _table() -> dict[str, Operation]:
    rows = [_row(*row) for row in _ROWS]
    for (space, known), names in _FUNCTIONS.items():
        rows += [_row(f"{space}.{name}", "0-", "", "", known) for name in names.split()]
    return {row.name: row for row in rows}


OPERATIONS: dict[str, Operation] = _table()


def _those(claim: Callable[[Operation], object]) -> frozenset[str]:
    return frozenset(name for name, operation in OPERATIONS.items() if claim(operation))


# -- questions, answered at import: `node.op in ops.COMMUTES` -------------------------------------

ELEMENTWISE = _those(lambda operation: operation.elementwise)
KEEPS_SHAPE = _those(lambda operation: operation.keeps_shape)
KEEPS_DTYPE = _those(lambda operation: operation.keeps_dtype)
RESHAPES = _those(lambda operation: operation.reshapes)
VIEWS = _those(lambda operation: operation.view)
CUTS = frozenset({GETITEM, SPLIT_PART, ITEM, "mx.as_strided"})  # may show less than their argument
SHOWS = VIEWS | CUTS | {  # what may give its argument's own data
    MX_ASTYPE, ASTYPE_LIKE, MX_STOP_GRADIENT, MX_POSITIVE, MX_REAL, RESHAPE_LIKE, BROADCAST_LIKE,
    "mx.broadcast_to", "mx.contiguous", "mx.view", "mx.atleast_1d", "mx.atleast_2d",
    "mx.atleast_3d",
}  # fmt: skip
OF_CODE = frozenset({APPLY, CALL})  # nobody knows whether they do
COMMUTES = _those(lambda operation: operation.commutes)
BY_OPERATORS = _those(lambda operation: operation.operators and not operation.compares)
LIFTS_NUMBERS = _those(lambda operation: operation.lifts_numbers)
DRAWS = _those(lambda operation: operation.draws)
STORABLE = _those(lambda operation: operation.storable)
SYMBOLS = {name: o.symbol for name, o in OPERATIONS.items() if o.symbol}
_SPACES = ("mx.", "nn.")  # MLX's namespaces, those inside them included
OWN = _those(lambda operation: not operation.name.startswith(_SPACES)) | {NORMAL_LIKE}


def short(op: str) -> str:
    """An operation's name without MLX's prefix, as people write it."""
    return op.removeprefix("mx.")


def is_random(op: str) -> bool:
    """Whether an operation has to do with randomness, those that take a key included."""
    return op.startswith("mx.random.")


def is_of_mlx(op: str) -> bool:
    """Whether an operation is a function of MLX, in the table or not."""
    return op.startswith(_SPACES) and op != NORMAL_LIKE


def key_position(op: str) -> int:
    """Where a draw's key stands among its arguments, where it is not given by name."""
    return 2 if op.endswith((".bernoulli", ".gumbel", ".permutation")) else 4


# -- functions along an axis: where it stands among the arguments, and the axis if there is none

REDUCES: dict[str, tuple[int, int | None]] = dict.fromkeys(
    """mx.all mx.any mx.argmax mx.argmin mx.logsumexp mx.max mx.mean mx.median mx.min mx.prod mx.std
    mx.sum mx.var""".split(),
    (1, None),
)
KEEPS_AXES: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys("mx.softmax mx.cummax mx.cummin mx.cumprod mx.cumsum".split(), (1, None)),
    **dict.fromkeys("nn.softmax nn.log_softmax mx.sort mx.argsort".split(), (1, -1)),
    "mx.topk": (2, -1),
}

# -- what Python writes for an operation: `add` of __add__ -> `mx.add` ----------------------------

BINARY = {  # those whose operands are lifted; the power's exponent is not
    python: o.name
    for o in OPERATIONS.values()
    for python in o.operators
    if o.fewest == 2 and o.lifts_numbers and not o.compares
}
COMPARISONS = {p: o.name for o in OPERATIONS.values() if o.compares for p in o.operators}
UNARY = {p: o.name for o in OPERATIONS.values() if o.fewest == 1 for p in o.operators}
METHODS = {short(o.name): o.name for o in OPERATIONS.values() if o.method}
VIEW_METHODS = {method: name for method, name in METHODS.items() if name in VIEWS}
