"""One call of every function of MLX that takes arrays, as a function of a float array `h`.

Each is applied to a plain array and to a proxy of it, and must give the same.  `h` has the shape
(2, 4, 6).  Names are those of the functions, so that a list of what MLX has can be held against
these tables: a function that a new version adds is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

Case = Callable[[Any], Any]
MX, LINALG, FAST, FFT, RANDOM, NN, LOSSES = mx, mx.linalg, mx.fast, mx.fft, mx.random, nn, nn.losses


def _ints(h: Any) -> Any:
    return (h * 4).astype(mx.int32)


def _positive(h: Any) -> Any:
    return mx.abs(h) + 0.5


def _unit(h: Any) -> Any:
    return mx.tanh(h) * 0.9


def _square(h: Any) -> Any:
    """A well-conditioned symmetric matrix, (4, 4)."""
    a = h[0, :, :4]
    return a @ a.T + 3 * mx.eye(4)


def _coarse(h: Any) -> Any:
    """Whole numbers, some of them zero."""
    return mx.floor(h * 2)


def _odd(h: Any) -> Any:
    """Numbers of which some are infinite, of either sign, and some are none."""
    return mx.floor(h * 4) / mx.floor(mx.abs(h) * 3)


ELEMENTWISE = {
    name: (lambda h, name=name: getattr(mx, name)(h))
    for name in """abs arctan arcsinh asinh atan ceil conj conjugate cos cosh degrees erf exp expm1
    floor negative positive radians
    reciprocal round sigmoid sign sin sinh square stop_gradient tan tanh trunc
    zeros_like ones_like contiguous atleast_1d atleast_2d atleast_3d sort argsort unstack
    matrix_transpose transpose flatten median asarray empty_like to_fp8""".split()
}
ELEMENTWISE |= {
    name: (lambda h, name=name: getattr(mx, name)(_odd(h)))
    for name in "isfinite isinf isnan isneginf isposinf nan_to_num".split()
}
ELEMENTWISE |= {
    name: (lambda h, name=name: getattr(mx, name)(mx.fft.fft(h))) for name in "real imag".split()
}
ELEMENTWISE["logical_not"] = lambda h: mx.logical_not(_coarse(h))
ELEMENTWISE["empty_like"] = lambda h: mx.empty_like(h).shape[0] + h
ON_UNIT = {
    name: (lambda h, name=name: getattr(mx, name)(_unit(h)))
    for name in "arccos acos arcsin asin arctanh atanh erfinv".split()
}
ON_POSITIVE = {
    name: (lambda h, name=name: getattr(mx, name)(_positive(h) + 1))
    for name in "arccosh acosh log log10 log1p log2 rsqrt sqrt".split()
}
REDUCTIONS = {
    name: (lambda h, name=name: getattr(mx, name)(h, axis=-1))
    for name in """argmax argmin cummax cummin cumprod cumsum cumulative_prod
    cumulative_sum logcumsumexp logsumexp max mean min minmax prod softmax std sum var""".split()
}
REDUCTIONS |= {
    name: (lambda h, name=name: getattr(mx, name)(_coarse(h[..., :2]), axis=-1))
    for name in "all any count_nonzero".split()
}
BINARY = {
    name: (
        lambda h, name=name: (
            getattr(mx, name)(h, 2.5),
            getattr(mx, name)(1.5, h),
            getattr(mx, name)(h, mx.ones((6,))),
            getattr(mx, name)(mx.ones((4, 1)), h),
        )
    )
    for name in """add subtract multiply divide floor_divide remainder maximum minimum
    arctan2 atan2 logaddexp divmod""".split()
}
BINARY |= {
    name: (
        lambda h, name=name: (
            getattr(mx, name)(_coarse(h), 0.0),
            getattr(mx, name)(-1.0, _coarse(h)),
            getattr(mx, name)(_coarse(h), mx.zeros((6,))),
            getattr(mx, name)(mx.ones((4, 1)), _coarse(h)),
        )
    )
    for name in """equal not_equal less less_equal greater greater_equal
    logical_and logical_or logical_xor""".split()
}
BITWISE = {
    name: (lambda h, name=name: getattr(mx, name)(_ints(h), 3))
    for name in """bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift
    left_shift right_shift""".split()
}
OTHER: dict[str, Case] = {
    "bitwise_invert": lambda h: mx.bitwise_invert(_ints(h)),
    "addmm": lambda h: mx.addmm(mx.ones((4, 3)), h, mx.ones((6, 3)), 0.5, 2.0),
    "argpartition": lambda h: mx.argpartition(h[0, 0], 2)[2:3],
    "isclose": lambda h: mx.isclose(h, mx.abs(h) + 1e-9),
    "allclose": lambda h: (mx.allclose(h, h + 1e-3, atol=1e-2), mx.allclose(h, h + 1e-3)),
    "array_equal": lambda h: (mx.array_equal(h, h + 0), mx.array_equal(h, h + 1)),
    "as_strided": lambda h: mx.as_strided(h, (3, 2), (2, 1), 4),
    "astype": lambda h: mx.astype(h, mx.float16),
    "block_masked_mm": lambda h: mx.block_masked_mm(
        mx.tile(h[0], (8, 6))[:32, :32], mx.ones((32, 32)), 32, mx.ones((1, 1), dtype=mx.bool_)
    ),
    "broadcast_arrays": lambda h: mx.broadcast_arrays(h, mx.ones((1, 1, 6))),
    "broadcast_to": lambda h: mx.broadcast_to(h, (3, 2, 4, 6)),
    "clip": lambda h: (mx.clip(h, -0.2, 0.3), mx.clip(h, None, 0.1), mx.clip(h, h.mean(), None)),
    "concat": lambda h: mx.concat([h, h * 2], axis=1),
    "concatenate": lambda h: mx.concatenate([h, mx.ones((2, 1, 6))], axis=1),
    "conv1d": lambda h: mx.conv1d(h, mx.ones((3, 2, 6)), padding=1),
    "conv2d": lambda h: mx.conv2d(h[None], mx.ones((2, 1, 2, 6))),
    "conv3d": lambda h: mx.conv3d(h[None, None], mx.ones((2, 1, 1, 2, 6))),
    "conv_general": lambda h: mx.conv_general(h, mx.ones((3, 2, 6)), stride=2),
    "conv_transpose1d": lambda h: mx.conv_transpose1d(h, mx.ones((3, 2, 6))),
    "conv_transpose2d": lambda h: mx.conv_transpose2d(h[None], mx.ones((2, 1, 2, 6))),
    "conv_transpose3d": lambda h: mx.conv_transpose3d(h[None, None], mx.ones((2, 1, 1, 2, 6))),
    "convolve": lambda h: mx.convolve(h[0, 0], mx.array([1.0, 2.0])),
    "depends": lambda h: mx.depends(h, h * 2),
    "dequantize": lambda h: mx.dequantize(
        *mx.quantize(mx.tile(h[0], (1, 6))[:, :32], group_size=32), group_size=32
    ),
    "diag": lambda h: mx.diag(h[0, 0]),
    "diagonal": lambda h: mx.diagonal(h, 0, 1, 2),
    "diff": lambda h: mx.diff(h),
    "einsum": lambda h: mx.einsum("bsd,bsd->bs", h, h + 1),
    "expand_dims": lambda h: mx.expand_dims(h, (0, 2)),
    "eye": lambda h: mx.eye(h.shape[1]) + h[:, :, :4],
    "flip": lambda h: mx.flip(h, 1),
    "from_fp8": lambda h: mx.from_fp8(mx.to_fp8(h), mx.float32),
    "full": lambda h: (mx.full((2, 3), h[0, 0, 0]), mx.full((3, 6), h[0, 0])),
    "full_like": lambda h: (mx.full_like(h, 3.0), mx.full_like(h, h[0, 0, 0])),
    "gather_mm": lambda h: mx.gather_mm(h, mx.ones((3, 6, 2)), rhs_indices=mx.array([2, 0])),
    "gather_qmm": lambda h: mx.gather_qmm(
        mx.tile(h, (1, 1, 6))[..., :32],
        *mx.quantize(mx.ones((3, 8, 32)) * mx.arange(32), group_size=32),
        rhs_indices=mx.array([1, 0]),
        group_size=32,
    ),
    "hadamard_transform": lambda h: mx.hadamard_transform(h[..., :4]),
    "identity": lambda h: mx.identity(4) @ h,
    "inner": lambda h: mx.inner(h, mx.ones((6,))),
    "kron": lambda h: mx.kron(h[0], mx.ones((2, 2))),
    "linspace": lambda h: mx.linspace(0, 1, h.shape[-1]) + h,
    "matmul": lambda h: (mx.matmul(h, mx.ones((6, 2))), mx.matmul(mx.ones((3, 4)), h)),
    "matrix_norm": lambda h: mx.matrix_norm(h),
    "meshgrid": lambda h: mx.meshgrid(h[0, 0], h[0, 1]),
    "moveaxis": lambda h: mx.moveaxis(h, 0, -1),
    "outer": lambda h: mx.outer(h[0, 0], h[0, 1]),
    "pad": lambda h: (mx.pad(h, 1), mx.pad(h, [(0, 0), (1, 2), (0, 0)], constant_values=3.0)),
    "partition": lambda h: mx.partition(h[0, 0], 2)[2:3],
    "permute_dims": lambda h: mx.permute_dims(h, (2, 0, 1)),
    "pow": lambda h: mx.pow(_positive(h), 1.5),
    "power": lambda h: (mx.power(h, 2), mx.power(2.0, h), mx.power(_positive(h), h)),
    "put_along_axis": lambda h: mx.put_along_axis(
        h, mx.array([[[1], [0], [2], [3]]] * 2), mx.array(9.0), axis=-1
    ),
    "quantize": lambda h: mx.quantize(mx.tile(h[0], (1, 6))[:, :32], group_size=32),
    "quantized_matmul": lambda h: mx.quantized_matmul(
        mx.tile(h, (1, 1, 6))[..., :32],
        *mx.quantize(mx.ones((8, 32)) * mx.arange(32), group_size=32),
        group_size=32,
    ),
    "repeat": lambda h: mx.repeat(h, 2, axis=1),
    "reshape": lambda h: mx.reshape(h, (4, -1)),
    "roll": lambda h: mx.roll(h, 2, axis=1),
    "searchsorted": lambda h: mx.searchsorted(mx.sort(h[0, 0]), h[0, 1]),
    "segmented_mm": lambda h: mx.segmented_mm(
        h[0], mx.ones((6, 3)), mx.array([[0, 2], [2, 6]], dtype=mx.uint32)
    ),
    "slice": lambda h: mx.slice(h, mx.array([0, 1]), (1, 2), (2, 2, 3)),
    "slice_update": lambda h: mx.slice_update(h, mx.ones((2, 1, 2)), mx.array([0, 1]), (1, 2)),
    "split": lambda h: (mx.split(h, 2, axis=1), mx.split(h, [1, 3], axis=-1)),
    "squeeze": lambda h: mx.squeeze(h[:1], 0),
    "stack": lambda h: mx.stack([h, h + 1], axis=1),
    "swapaxes": lambda h: mx.swapaxes(h, 0, 2),
    "take": lambda h: (
        mx.take(h, mx.array([0, 2, 2]), axis=1),
        mx.take(mx.ones((9, 2)), mx.abs(_ints(h)), axis=0),
    ),
    "take_along_axis": lambda h: mx.take_along_axis(h, mx.argsort(h, axis=-1), axis=-1),
    "tensordot": lambda h: mx.tensordot(h, mx.ones((4, 6, 2)), axes=([1, 2], [0, 1])),
    "tile": lambda h: mx.tile(h, (1, 2, 1)),
    "topk": lambda h: mx.sort(mx.topk(h, 3), axis=-1),
    "trace": lambda h: mx.trace(h[0]),
    "tri": lambda h: mx.tri(4) @ h,
    "tril": lambda h: mx.tril(h),
    "triu": lambda h: mx.triu(h, 1),
    "unflatten": lambda h: mx.unflatten(h, -1, (2, 3)),
    "vecdot": lambda h: mx.vecdot(h, h + 1),
    "view": lambda h: mx.view(h, mx.int32),
    "where": lambda h: (mx.where(h > 0, h, 0.0), mx.where(h > 0, 1, h), mx.where(h > 0, 2.0, -3)),
    "unique": lambda h: mx.unique(_ints(h), size=12),
}
MLX_CORE: dict[str, Case] = {
    **ELEMENTWISE,
    **ON_UNIT,
    **ON_POSITIVE,
    **REDUCTIONS,
    **BINARY,
    **BITWISE,
    **OTHER,
}
# No array among their arguments, or no array out.
NOT_OF_ARRAYS = set(
    """arange async_eval bartlett blackman broadcast_shapes can_cast checkpoint clear_cache
    clear_streams compile default_device default_stream device_count device_info disable_compile
    einsum_path empty enable_compile eval export_function export_to_dot exporter from_dlpack
    get_active_memory get_array_buffer_size get_cache_memory get_memory_limit get_peak_memory
    get_printoptions grad hamming hanning import_function is_available isdtype issubdtype jvp load
    new_stream new_thread_local_stream new_thread_unsafe_stream ones printoptions
    reset_peak_memory result_type save save_gguf save_safetensors savez savez_compressed
    set_cache_limit set_default_device set_default_stream set_memory_limit set_printoptions
    set_wired_limit stream synchronize value_and_grad vjp vmap zeros""".split()
)
# Only for GPUs, or for quantisation kinds that the CPU does not have.
NOT_ON_CPU = {"qqmm", "gather_qqmm"}

MLX_LINALG: dict[str, Case] = {
    "cholesky": lambda h: LINALG.cholesky(_square(h), stream=mx.cpu),
    "cholesky_inv": lambda h: LINALG.cholesky_inv(
        LINALG.cholesky(_square(h), stream=mx.cpu), stream=mx.cpu
    ),
    "cross": lambda h: LINALG.cross(h[..., :3], mx.array([1.0, 2.0, 3.0])),
    "det": lambda h: LINALG.det(_square(h), stream=mx.cpu),
    "eig": lambda h: LINALG.eig(_square(h), stream=mx.cpu)[0],
    "eigh": lambda h: LINALG.eigh(_square(h), stream=mx.cpu),
    "eigvals": lambda h: LINALG.eigvals(_square(h), stream=mx.cpu),
    "eigvalsh": lambda h: LINALG.eigvalsh(_square(h), stream=mx.cpu),
    "inv": lambda h: LINALG.inv(_square(h), stream=mx.cpu),
    "lu": lambda h: LINALG.lu(_square(h), stream=mx.cpu),
    "lu_factor": lambda h: LINALG.lu_factor(_square(h), stream=mx.cpu),
    "norm": lambda h: (LINALG.norm(h), LINALG.norm(h, axis=-1), LINALG.norm(h, ord=1, axis=-1)),
    "pinv": lambda h: LINALG.pinv(_square(h), stream=mx.cpu),
    "qr": lambda h: LINALG.qr(h[0], stream=mx.cpu),
    "slogdet": lambda h: LINALG.slogdet(_square(h), stream=mx.cpu),
    "solve": lambda h: LINALG.solve(_square(h), h[0], stream=mx.cpu),
    "solve_triangular": lambda h: LINALG.solve_triangular(
        mx.triu(_square(h)), h[0], upper=True, stream=mx.cpu
    ),
    "svd": lambda h: LINALG.svd(h[0], stream=mx.cpu),
    "tri_inv": lambda h: LINALG.tri_inv(mx.tril(_square(h)), stream=mx.cpu),
}


def _heads(h: Any) -> Any:
    """(2, 2, 4, 8): batch, heads, length, width."""
    return mx.tile(h, (1, 1, 3))[..., :16].reshape(2, 4, 2, 8).transpose(0, 2, 1, 3)


MLX_FAST: dict[str, Case] = {
    "layer_norm": lambda h: FAST.layer_norm(h, mx.ones((6,)), mx.zeros((6,)), 1e-5),
    "rms_norm": lambda h: (FAST.rms_norm(h, mx.ones((6,)), 1e-5), FAST.rms_norm(h, None, 1e-5)),
    "rope": lambda h: FAST.rope(_heads(h), 8, traditional=False, base=10000.0, scale=1.0, offset=2),
    "scaled_dot_product_attention": lambda h: (
        FAST.scaled_dot_product_attention(_heads(h), _heads(h), _heads(h), scale=0.5),
        FAST.scaled_dot_product_attention(
            _heads(h), _heads(h) * 2, _heads(h), scale=0.5, mask="causal"
        ),
    ),
    "cross_entropy": lambda h: FAST.cross_entropy(h, mx.zeros((2, 4), dtype=mx.int32)),
}
NOT_FAST = {"cuda_kernel", "metal_kernel", "precompiled_cuda_kernel", "gated_delta_update"}

MLX_FFT: dict[str, Case] = {
    **{
        name: (lambda h, name=name: getattr(FFT, name)(h))
        for name in "fft fft2 fftn fftshift ifft ifft2 ifftn ifftshift rfft rfft2 rfftn".split()
    },
    "irfft": lambda h: FFT.irfft(FFT.rfft(h)),
    "irfft2": lambda h: FFT.irfft2(FFT.rfft2(h)),
    "irfftn": lambda h: FFT.irfftn(FFT.rfftn(h)),
    "stft": lambda h: FFT.stft(h.reshape(2, 24), n_fft=8),
    "istft": lambda h: FFT.istft(FFT.stft(h.reshape(2, 24), n_fft=8), n_fft=8),
}
NOT_FFT = {"fftfreq", "rfftfreq"}

# With a key of their own these are functions like any other.
MLX_RANDOM: dict[str, Case] = {
    "bernoulli": lambda h: RANDOM.bernoulli(mx.sigmoid(h), key=RANDOM.key(1)),
    "categorical": lambda h: RANDOM.categorical(h * 20, key=RANDOM.key(2)),
    "gumbel": lambda h: h + RANDOM.gumbel(h.shape, key=RANDOM.key(3)),
    "laplace": lambda h: h + RANDOM.laplace(h.shape, key=RANDOM.key(4)),
    "multivariate_normal": lambda h: RANDOM.multivariate_normal(
        h[0, 0, :4], _square(h), shape=[], key=RANDOM.key(5), stream=mx.cpu
    ),
    "normal": lambda h: h + RANDOM.normal(h.shape, key=RANDOM.key(6)),
    "permutation": lambda h: RANDOM.permutation(h, axis=1, key=RANDOM.key(7)),
    "randint": lambda h: RANDOM.randint(_ints(h) - 5, _ints(h) + 9, h.shape, key=RANDOM.key(8)),
    "split": lambda h: RANDOM.split(mx.abs(_ints(h)).reshape(-1)[:2].astype(mx.uint32)),
    "truncated_normal": lambda h: RANDOM.truncated_normal(h - 2, h + 2, key=RANDOM.key(9)),
    "uniform": lambda h: RANDOM.uniform(h - 1, h + 1, h.shape, key=RANDOM.key(10)),
}
NOT_RANDOM = {"__getattr__", "key", "seed"}

NN_FUNCTIONS: dict[str, Case] = {
    **{
        name: (lambda h, name=name: getattr(NN, name)(h))
        for name in """sigmoid relu relu2 relu6 leaky_relu log_softmax elu softmax softplus
       softsign softshrink
       celu silu log_sigmoid gelu gelu_approx gelu_fast_approx glu step selu mish hardswish
       hard_tanh hard_shrink softmin tanh""".split()
    },
    "prelu": lambda h: NN.prelu(h, mx.array([0.2])),
}


def _targets(h: Any) -> Any:
    return mx.ones(h.shape) * 0.5


NN_LOSSES: dict[str, Case] = {
    "cross_entropy": lambda h: LOSSES.cross_entropy(h, mx.zeros((2, 4), dtype=mx.int32)),
    "binary_cross_entropy": lambda h: LOSSES.binary_cross_entropy(h, _targets(h)),
    "l1_loss": lambda h: LOSSES.l1_loss(h, _targets(h)),
    "mse_loss": lambda h: LOSSES.mse_loss(h, _targets(h), reduction="none"),
    "nll_loss": lambda h: LOSSES.nll_loss(h, mx.zeros((2, 4), dtype=mx.int32)),
    "gaussian_nll_loss": lambda h: LOSSES.gaussian_nll_loss(h, _targets(h), _targets(h)),
    "kl_div_loss": lambda h: LOSSES.kl_div_loss(h, mx.log(_targets(h))),
    "smooth_l1_loss": lambda h: LOSSES.smooth_l1_loss(h, _targets(h)),
    "triplet_loss": lambda h: LOSSES.triplet_loss(h, _targets(h), -_targets(h)),
    "hinge_loss": lambda h: LOSSES.hinge_loss(h, _targets(h)),
    "huber_loss": lambda h: LOSSES.huber_loss(h, _targets(h)),
    "log_cosh_loss": lambda h: LOSSES.log_cosh_loss(h, _targets(h)),
    "cosine_similarity_loss": lambda h: LOSSES.cosine_similarity_loss(h, _targets(h)),
    "margin_ranking_loss": lambda h: LOSSES.margin_ranking_loss(h, _targets(h), _targets(h)),
}

METHODS: dict[str, Case] = {
    **{
        name: (lambda h, name=name: getattr(h, name)())
        for name in """abs conj cos exp sin square round reciprocal flatten transpose""".split()
    },
    **{
        name: (lambda h, name=name: getattr(_positive(h), name)())
        for name in "log log10 log1p log2 rsqrt sqrt".split()
    },
    **{
        name: (lambda h, name=name: (getattr(h, name)(axis=-1), getattr(h, name)()))
        for name in "argmax argmin logsumexp max mean min prod std sum var".split()
    },
    **{
        name: (
            lambda h, name=name: (
                getattr(_coarse(h[..., :2]), name)(axis=-1),
                getattr(_coarse(h), name)(),
            )
        )
        for name in "all any".split()
    },
    **{
        name: (lambda h, name=name: getattr(h, name)(axis=1))
        for name in "cummax cummin cumprod cumsum logcumsumexp".split()
    },
    "T": lambda h: h.T,
    "mT": lambda h: h.mT,
    "real": lambda h: mx.fft.fft(h).real,
    "imag": lambda h: mx.fft.fft(h).imag,
    "at": lambda h: (
        h.at[0].add(2.0),
        h.at[:, 1].multiply(h[:, 0]),
        h.at[..., 0].maximum(0),
        h.at[0, 1].subtract(1),
        h.at[1].divide(2),
        h.at[1].minimum(0.5),
    ),
    "astype": lambda h: (h.astype(mx.float16), h.astype(mx.int32), h.astype(mx.bool_)),
    "diag": lambda h: h[0].diag(),
    "diagonal": lambda h: h.diagonal(0, 1, 2),
    "moveaxis": lambda h: h.moveaxis(0, 2),
    "reshape": lambda h: (h.reshape(8, 6), h.reshape((2, -1)), h.reshape([48])),
    "split": lambda h: h.split(3, axis=-1),
    "squeeze": lambda h: (h[:1].squeeze(0), h[:1, :1].squeeze()),
    "swapaxes": lambda h: h.swapaxes(0, 1),
    "view": lambda h: h.view(mx.uint32),
}
# What gives one answer whatever `h` holds: the first two take its shape alone, the others are asked
# for both of their answers.
BLIND = {"zeros_like", "ones_like", "allclose", "array_equal"}
# Plain Python values, or looks (tested with R8).
NOT_RECORDED = {"dtype", "itemsize", "nbytes", "ndim", "shape", "size", "item", "tolist"}
