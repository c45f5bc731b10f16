"""Small random models of other packages: which class, on which configuration, called on what.

Data, and how it is read.  Nothing here imports a package: `Made.make` does, once a test asks for
the model.  What `in_environment.py` installs is what these need.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import mlx.core as mx

# What packages call the sizes of a model.  Each configuration takes those it has a name for.
SMALL: dict[str, Any] = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, vocab_size=50, head_dim=8,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    n_embd=32, n_layer=2, n_head=4, n_positions=64, n_ctx=64,
    rms_norm_eps=1e-5, layer_norm_eps=1e-5, layer_norm_epsilon=1e-5, norm_eps=1e-5,
    norm_epsilon=1e-5, rope_theta=1e4, partial_rotary_factor=0.5, tie_word_embeddings=True,
    attention_bias=False, mlp_bias=False, use_qkv_bias=True, query_pre_attn_scalar=8,
    sliding_window=4, sliding_window_pattern=2, moe_intermediate_size=32,
    shared_expert_intermediate_size=32, num_experts=4, num_local_experts=4, num_experts_per_tok=2,
    image_size=8, patch_size=4, projection_dim=32, rope_scaling=None,
)  # fmt: skip


class Made:
    """`Made("package.module:Name", ...)`: an object of a package, once the package is there."""

    def __init__(self, where: str, *args: Any, **fields: Any):
        self.where, self.args, self.fields = where, args, fields

    def make(self) -> Any:
        """The object, what it is made of first."""
        module, _, name = self.where.partition(":")
        kind = getattr(import_module(module), name)
        return kind(*map(made, self.args), **{k: made(v) for k, v in self.given(kind).items()})

    def given(self, kind: Any) -> dict[str, Any]:
        return self.fields


class Small(Made):
    """The same, with each of the sizes in `SMALL` that it has a name for."""

    def given(self, kind: Any) -> dict[str, Any]:
        names = inspect.signature(kind).parameters
        return {name: value for name, value in SMALL.items() if name in names} | self.fields


def made(value: Any) -> Any:
    return value.make() if isinstance(value, Made) else value


@dataclass(frozen=True)
class Case:
    """One model: how it is made, what it is called on, and whether it can be compiled.

    A model that looks at values while it runs cannot.  `wrong` has, by the name of a test, why the
    model is expected to fail it.
    """

    model: Made
    inputs: Callable[[], tuple]
    compiles: bool = True
    wrong: dict[str, str] = field(default_factory=dict)


def tokens() -> tuple:
    return (mx.array([[1, 7, 3, 9, 4, 2]]),)


def rows() -> tuple:
    return (mx.array([[1, 7, 3, 9, 4, 2], [5, 11, 0, 8, 6, 13]]),)


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(7))


def image() -> tuple:
    return (normal(1, 8, 8, 3),)


def patches() -> tuple:
    """As Qwen's vision encoders are given them, flattened, and how many there are of them."""
    return normal(16, 3 * 2 * 4 * 4), mx.array([[1, 4, 4]])


def speech() -> tuple:
    return (normal(1, 12, 8),)


def spoken() -> tuple:
    return (*speech(), *tokens())


def sound() -> tuple:
    return (normal(1, 1, 64),)


VLM, EMBEDDINGS, AUDIO = "mlx_vlm.models", "mlx_embeddings.models", "mlx_audio.codec.models"


def language(name: str, **fields: Any) -> Case:
    """A whole model of mlx-vlm that reads text, named after its folder."""
    config = Small(f"{VLM}.{name}:ModelConfig", **{"model_type": name} | fields)
    return Case(Made(f"{VLM}.{name}:Model", config), tokens)


def half(name: str, which: str, inputs: Callable[[], tuple], **fields: Any) -> Case:
    """The language or the vision half of a vision-language model."""
    config = Small(f"{VLM}.{name}:{which}Config", **{"model_type": name} | fields)
    kind = {"Text": "LanguageModel", "Vision": "VisionModel"}[which]
    looks = inputs is patches  # at how many patches there are
    return Case(Made(f"{VLM}.{name}:{kind}", config), inputs, not looks)


def with_whole(name: str, **fields: Any) -> Case:
    """A language half that is given the whole model's configuration too."""
    text = Small(f"{VLM}.{name}:TextConfig", **{"model_type": name} | fields)
    vision = Small(f"{VLM}.{name}:VisionConfig", model_type=name)
    whole = Small(
        f"{VLM}.{name}:ModelConfig", text_config=text, vision_config=vision, model_type=name
    )
    return Case(Made(f"{VLM}.{name}:LanguageModel", text, whole), tokens)


def embedder(name: str, **fields: Any) -> Case:
    config = Small(f"{EMBEDDINGS}.{name}:ModelArgs", **{"model_type": name} | fields)
    return Case(Made(f"{EMBEDDINGS}.{name}:Model", config), rows)


def whisper(module: str) -> Case:
    sizes = Made(f"{module}:ModelDimensions", 8, 6, 32, 4, 2, 50, 16, 32, 4, 2)
    return Case(Made(f"{module}:Whisper", sizes, mx.float32), spoken)


def llava_whole() -> tuple:
    picture = mx.swapaxes(normal(1, 8, 8, 3), 1, 3)
    return mx.array([[1, 49, 49, 49, 49, 2]]), picture, None


CLIP = dict(model_type="clip_vision_model")
SIGLIP = dict(model_type="siglip_vision_model")
SECTIONS = {"type": "mrope", "mrope_section": [1, 1, 2]}
QWEN_VISION = dict(depth=2, num_heads=4, hidden_size=32)

LANGUAGE = {
    **{
        name: language(name)
        for name in """llama qwen2 qwen3 gemma gemma2 gemma3_text phi phi3 gpt2 gpt_oss cohere2
        olmo2 smollm3 qwen2_moe mixtral stablelm glm4 falcon_h1""".split()
    },
    "mamba": language(
        "mamba", state_size=8, conv_kernel=4, use_bias=False, use_conv_bias=True, time_step_rank=4
    ),
    "granite": language(
        "granite", logits_scaling=2.0, attention_multiplier=0.3, embedding_multiplier=2.0,
        residual_multiplier=0.5,
    ),
    "llava": half("llava", "Text", tokens, model_type="llama"),
    "gemma3": half("gemma3", "Text", tokens),
    "paligemma": half("paligemma", "Text", tokens, model_type="gemma"),
    "idefics3": half("idefics3", "Text", tokens),
    "pixtral": half("pixtral", "Text", tokens),
    "qwen2_vl": with_whole("qwen2_vl", rope_scaling=SECTIONS),
    "qwen2_5_vl": with_whole("qwen2_5_vl", rope_scaling=SECTIONS),
    "qwen3_vl": with_whole("qwen3_vl", rope_scaling=SECTIONS),
}  # fmt: skip

VISION = {
    "llava vision": half("llava", "Vision", image, **CLIP),
    "gemma3 vision": half("gemma3", "Vision", image, **SIGLIP),
    "paligemma vision": half("paligemma", "Vision", image, **SIGLIP),
    "qwen2_vl vision": half("qwen2_vl", "Vision", patches, embed_dim=32, **QWEN_VISION),
    "qwen2_5_vl vision": half(
        "qwen2_5_vl",
        "Vision",
        patches,
        out_hidden_size=32,
        window_size=16,
        fullatt_block_indexes=[1],
        **QWEN_VISION,
    ),
    "qwen3_vl vision": half(
        "qwen3_vl",
        "Vision",
        patches,
        out_hidden_size=32,
        num_position_embeddings=16,
        deepstack_visual_indexes=[0],
        **QWEN_VISION,
    ),
    "dinov2": Case(
        Made(f"{VLM}.dinov2:Model", Small(f"{VLM}.dinov2:ModelConfig", num_register_tokens=2)),
        image,
    ),
    "llava whole": Case(
        Made(
            f"{VLM}.llava:Model",
            Small(
                f"{VLM}.llava:ModelConfig",
                text_config=Small(f"{VLM}.llava:TextConfig", model_type="llama"),
                vision_config=Small(f"{VLM}.llava:VisionConfig", **CLIP),
                model_type="llava",
                image_token_index=49,
            ),
        ),
        llava_whole,
        compiles=False,  # it looks where the picture goes
    ),
}

EMBEDDERS = {
    f"{name} embedder": case
    for name, case in {
        "bert": embedder("bert"),
        "modernbert": embedder("modernbert"),
        "xlm_roberta": embedder("xlm_roberta"),
        "qwen3": embedder("qwen3"),
        "gemma3": embedder("gemma3_text", model_type="gemma3_text"),
        "llama_bidirec": embedder("llama_bidirec"),
        "lfm2": embedder(
            "lfm2", conv_bias=False, conv_L_cache=3, block_dim=32, block_multiple_of=8,
            block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=False, full_attn_idxs=[1],
        ),
        "siglip": Case(
            Made(
                f"{EMBEDDINGS}.siglip:Model",
                Made(
                    f"{EMBEDDINGS}.siglip:ModelArgs",
                    Small(f"{EMBEDDINGS}.siglip:TextConfig"),
                    Small(f"{EMBEDDINGS}.siglip:VisionConfig"),
                ),
            ),
            lambda: (*tokens(), normal(1, 8, 8, 3)),
        ),
        "vlm bert": language("bert"),
        "vlm modernbert": language("modernbert"),
    }.items()
}  # fmt: skip

CONFORMER = Made(
    "parakeet_mlx.conformer:ConformerArgs", feat_in=8, n_layers=2, d_model=32, n_heads=4,
    ff_expansion_factor=2, subsampling_factor=2, self_attention_model="rel_pos",
    subsampling="dw_striding", conv_kernel_size=3, subsampling_conv_channels=8, pos_emb_max_len=64,
)  # fmt: skip
SPEECH = {
    "whisper": whisper("mlx_whisper.whisper"),
    "parakeet": Case(Made("parakeet_mlx.conformer:Conformer", CONFORMER), speech),
    "parakeet predict": Case(
        Made(
            "parakeet_mlx.rnnt:PredictNetwork",
            Made(
                "parakeet_mlx.rnnt:PredictArgs",
                True,
                50,
                Made("parakeet_mlx.rnnt:PredictNetworkArgs", 32, 2),
            ),
        ),
        tokens,
    ),
    "wav2vec": Case(
        Made(
            "mlx_audio.stt.models.wav2vec.wav2vec:Wav2Vec2Model",
            Small(
                "mlx_audio.stt.models.wav2vec.wav2vec:ModelConfig", conv_dim=(16, 16),
                conv_stride=(2, 2), conv_kernel=(4, 3), num_feat_extract_layers=2,
                num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, layerdrop=0.0,
            ),
        ),
        lambda: (normal(1, 64),),
    ),
    "moonshine decoder": Case(
        Made(
            "mlx_audio.stt.models.moonshine.moonshine:MoonshineDecoder",
            Small(
                "mlx_audio.stt.models.moonshine.config:ModelConfig", decoder_num_hidden_layers=2,
                decoder_num_attention_heads=4,
            ),
        ),
        lambda: (*tokens(), normal(1, 5, 32)),
    ),
}  # fmt: skip

ENCODEC = Made(
    f"{AUDIO}.encodec:EncodecConfig", num_filters=4, hidden_size=16, upsampling_ratios=[2, 2]
)
CODECS = {
    "encodec encoder": Case(
        Made(f"{AUDIO}.encodec.encodec:EncodecEncoder", ENCODEC), lambda: (normal(1, 32, 1),)
    ),
    "encodec decoder": Case(
        Made(f"{AUDIO}.encodec.encodec:EncodecDecoder", ENCODEC), lambda: (normal(1, 8, 16),)
    ),
    "snac": Case(
        Made(
            f"{AUDIO}.snac:SNAC", encoder_dim=4, encoder_rates=[2, 2], decoder_dim=16,
            decoder_rates=[2, 2], attn_window_size=None, codebook_size=16, codebook_dim=4,
            vq_strides=[2, 1], noise=False,
        ),
        sound,
    ),
    "descript": Case(
        Made(
            f"{AUDIO}.descript:DAC", encoder_dim=4, encoder_rates=[2, 2], decoder_dim=16,
            decoder_rates=[2, 2], n_codebooks=2, codebook_size=16, codebook_dim=4,
        ),
        sound,
    ),
    "vocos": Case(Made(f"{AUDIO}.vocos.vocos:VocosBackbone", 8, 32, 64, 2), speech),
    "bigvgan": Case(
        Made(
            f"{AUDIO}.bigvgan.bigvgan:BigVGAN",
            Made(
                f"{AUDIO}.bigvgan.bigvgan:BigVGANConfig", 8, [2, 2], [4, 4], 16, "1", [3],
                [[1, 3, 5]], "snakebeta", True,
            ),
        ),
        lambda: (normal(1, 8, 12),),
    ),
    "ecapa_tdnn": Case(
        Made(
            f"{AUDIO}.ecapa_tdnn.ecapa_tdnn:EcapaTdnnBackbone",
            Made(
                f"{AUDIO}.ecapa_tdnn.config:EcapaTdnnConfig", 8, channels=16, embed_dim=8,
                attention_channels=8, res2net_scale=4, se_channels=8,
            ),
        ),
        lambda: (normal(2, 24, 8),),
    ),
}  # fmt: skip

MFLUX = "mflux.models"
DIFFUSION = {
    "z_image": Case(
        Made(
            f"{MFLUX}.z_image.model.z_image_transformer.transformer:ZImageTransformer",
            in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, cap_feat_dim=16,
            axes_dims=[4, 6, 6], axes_lens=[64, 32, 32],
        ),
        lambda: (normal(4, 1, 8, 8), 1, mx.array([1.0, 0.5, 0.1]), normal(6, 16)),
    ),
    "flux2": Case(
        Made(
            f"{MFLUX}.flux2.model.flux2_transformer.transformer:Flux2Transformer",
            in_channels=8, num_layers=1, num_single_layers=2, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=16, timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
        ),
        lambda: (
            normal(1, 16, 8), normal(1, 6, 16), mx.array(0.5), mx.zeros((16, 4), mx.int32),
            mx.zeros((6, 4), mx.int32),
        ),
    ),
}  # fmt: skip

CASES = LANGUAGE | VISION | EMBEDDERS | SPEECH | CODECS | DIFFUSION
