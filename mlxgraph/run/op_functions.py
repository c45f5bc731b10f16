"""The closed table: every function of MLX that a graph read from a file may name.

Arithmetic on arrays and nothing else.  Left out on purpose: what evaluates, reads or writes
files, compiles, transforms, builds kernels, moves devices or takes functions, and `as_strided`,
which reads memory that is none of its array's.  A name that the installed MLX lacks does no
harm; it is refused when it is used.
"""

from __future__ import annotations

_NAMES = {
    "mx": """
        abs acos acosh add addmm all allclose any arange arccos arccosh arcsin arcsinh arctan
        arctan2 arctanh argmax argmin argpartition argsort array_equal asarray asin asinh astype
        atan atan2 atanh atleast_1d atleast_2d atleast_3d bartlett bitwise_and bitwise_invert
        bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor blackman block_masked_mm
        broadcast_arrays broadcast_shapes broadcast_to can_cast ceil clip concat concatenate conj
        conjugate contiguous conv1d conv2d conv3d conv_general conv_transpose1d conv_transpose2d
        conv_transpose3d convolve cos cosh count_nonzero cummax cummin cumprod cumsum
        cumulative_prod cumulative_sum degrees depends dequantize diag diagonal diff divide divmod
        einsum einsum_path empty empty_like equal erf erfinv exp expand_dims expm1 eye flatten flip
        floor floor_divide from_fp8 full full_like gather_mm gather_qmm gather_qqmm greater
        greater_equal hadamard_transform hamming hanning identity imag inner isclose isdtype
        isfinite isinf isnan isneginf isposinf issubdtype kron left_shift less less_equal linspace
        log log10 log1p log2 logaddexp logcumsumexp logical_and logical_not logical_or logical_xor
        logsumexp matmul matrix_norm matrix_transpose max maximum mean median meshgrid min minimum
        minmax moveaxis multiply nan_to_num negative not_equal ones ones_like outer pad partition
        permute_dims positive pow power prod put_along_axis qqmm quantize quantized_matmul radians
        real reciprocal remainder repeat reshape result_type right_shift roll round rsqrt
        searchsorted segmented_mm sigmoid sign sin sinh slice slice_update softmax sort split sqrt
        square squeeze stack std stop_gradient subtract sum swapaxes take take_along_axis tan tanh
        tensordot tile to_fp8 topk trace transpose tri tril triu trunc unflatten unique unstack var
        vecdot view where zeros zeros_like
    """,
    "mx.linalg": """
        cholesky cholesky_inv cross det eig eigh eigvals eigvalsh inv lu lu_factor norm pinv qr
        slogdet solve solve_triangular svd tri_inv
    """,
    "mx.fast": """
        cross_entropy gated_delta_update layer_norm rms_norm rope scaled_dot_product_attention
    """,
    "mx.fft": """
        fft fft2 fftfreq fftn fftshift ifft ifft2 ifftn ifftshift irfft irfft2 irfftn istft rfft
        rfft2 rfftfreq rfftn stft
    """,
    "mx.random": """
        bernoulli categorical gumbel laplace multivariate_normal normal permutation randint split
        truncated_normal uniform
    """,
    "nn": """
        celu elu gelu gelu_approx gelu_fast_approx glu hard_shrink hard_tanh hardswish leaky_relu
        log_sigmoid log_softmax mish prelu relu relu2 relu6 selu sigmoid silu softmax softmin
        softplus softshrink softsign step tanh
    """,
    "nn.losses": """
        binary_cross_entropy cosine_similarity_loss cross_entropy gaussian_nll_loss hinge_loss
        huber_loss kl_div_loss l1_loss log_cosh_loss margin_ranking_loss mse_loss nll_loss
        smooth_l1_loss triplet_loss
    """,
}
ARRAY_FUNCTIONS = frozenset(
    f"{space}.{name}" for space, names in _NAMES.items() for name in names.split()
)
