"""Real pipeline classes at tiny size with random weights, built offline and saved as safetensors folders.

Each builder makes one family's components; `save` writes the folder that a recipe would name. Sizes follow diffusers' own
fast tests: 8 to 16 latents a side, one or two layers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers

WORDS = ["a", "photo", "of", "the", "cat", "dog", "bird", "red", "blue", "small"]


def clip_tokenizer(length: int = 16) -> Any:
    """Byte-level BPE over single characters: every text has tokens, padding is fixed."""
    letters = sorted({*"abcdefghijklmnopqrstuvwxyz0123456789.,!?-'<>|"})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[], model_max_length=length)


def t5_tokenizer(length: int = 16) -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((f"▁{word}", -1.0) for word in WORDS)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


def plain_tokenizer(length: int = 16, chat: bool = False) -> Any:
    """A byte-level tokenizer that pads each batch to its longest text, as language models' tokenizers do."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<pad>", "<s>", "</s>", "<unk>"]
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", letters.index("<s>"))])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=length
    )
    if chat:
        wrapped.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return wrapped


def text_encoder(size: int = 32, projected: bool = False, length: int = 16, projection: int = 32) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=96,
        hidden_size=size,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=length,
        projection_dim=projection,
        bos_token_id=94,
        eos_token_id=95,
        pad_token_id=95,
    )
    return (transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel)(config)


def t5_encoder(size: int = 32) -> Any:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=64, d_model=size, d_kv=8, d_ff=37, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu")
    )


def vision_encoder(projection: int = 32) -> Any:
    return transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
            projection_dim=projection,
        )
    )


def vision_processor() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def vae(channels: int = 4, blocks: int = 2, **more: Any) -> Any:
    """Pixels to latents by 2 ** (blocks - 1)."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16, 16)[:blocks],
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        latent_channels=channels,
        norm_num_groups=8,
        sample_size=32,
        **more,
    )


def unet(cross: int = 32, **more: Any) -> Any:
    settings: dict[str, Any] = dict(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    return diffusers.UNet2DConditionModel(**{**settings, **more})


def ddim() -> Any:
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )


def flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


UNSAFE: dict[str, Any] = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def stable(kind: Any, settings: dict[str, Any] | None = None, **more: Any) -> Any:
    """A pipeline of the parts of Stable Diffusion. settings: of its UNet.  more: further parts, or others in their place."""
    parts = dict(vae=vae(), text_encoder=text_encoder(), tokenizer=clip_tokenizer(), unet=unet(**(settings or {})), scheduler=ddim())
    return kind(**{**parts, **more})


def stable_diffusion() -> Any:
    return stable(diffusers.StableDiffusionPipeline, **UNSAFE)


def stable_diffusion_depth_and_colour() -> Any:
    """Makes images and depth maps, under other names than any other pipeline."""
    return stable(diffusers.StableDiffusionLDM3DPipeline, safety_checker=None, feature_extractor=None, image_encoder=None)


def stable_diffusion_with_encoder() -> Any:
    """With an image encoder, so that an image-prompt adapter can be loaded; write its weights with `ip_adapter`."""
    own = {"feature_extractor": vision_processor(), "image_encoder": vision_encoder()}
    return stable(diffusers.StableDiffusionPipeline, **{**UNSAFE, **own})


def stable_diffusion_inpaint() -> Any:
    """With a nine-channel UNet, as inpainting checkpoints have."""
    return stable(diffusers.StableDiffusionInpaintPipeline, {"in_channels": 9}, **UNSAFE)


def latent_consistency() -> Any:
    scheduler = diffusers.LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return stable(diffusers.LatentConsistencyModelPipeline, {"time_cond_proj_dim": 32}, scheduler=scheduler, **UNSAFE)


def unclip() -> Any:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    return diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=vision_processor(),
        image_encoder=vision_encoder(),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=32),
        image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=clip_tokenizer(),
        text_encoder=text_encoder(),
        unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=64),
        scheduler=ddim(),
        vae=vae(),
    )


def sdxl() -> Any:
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            64,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=80,
            transformer_layers_per_block=(1, 1),
        ),
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
        add_watermarker=False,
    )


def sd3() -> Any:
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=16,
            patch_size=1,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=64,
            out_channels=4,
            pos_embed_max_size=16,
        ),
        scheduler=flow(),
        vae=vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(16, projected=True, length=77),
        tokenizer=clip_tokenizer(77),
        text_encoder_2=text_encoder(16, projected=True, length=77),
        tokenizer_2=clip_tokenizer(77),
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
    )


def flux() -> Any:
    return diffusers.FluxPipeline(
        scheduler=flow(),
        vae=vae(1, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=text_encoder(length=77),
        tokenizer=clip_tokenizer(77),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=(4, 4, 8),
        ),
    )


def chroma() -> Any:
    return diffusers.ChromaPipeline(
        scheduler=flow(),
        vae=vae(1, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(),
        transformer=diffusers.ChromaTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 4, 8),
            approximator_num_channels=8,
            approximator_hidden_dim=16,
            approximator_layers=1,
        ),
    )


def dit() -> Any:
    return diffusers.DiTPipeline(
        transformer=diffusers.DiTTransformer2DModel(
            sample_size=16,
            num_layers=1,
            patch_size=4,
            attention_head_dim=8,
            num_attention_heads=2,
            in_channels=4,
            out_channels=8,
            num_embeds_ada_norm=1000,
        ),
        vae=vae(),
        scheduler=diffusers.DDIMScheduler(),
    )


def _pixart_transformer() -> Any:
    return diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        use_additional_conditions=False,
    )


def pixart_alpha() -> Any:
    return diffusers.PixArtAlphaPipeline(t5_tokenizer(), t5_encoder(), vae(), _pixart_transformer(), ddim())


def pixart_sigma() -> Any:
    return diffusers.PixArtSigmaPipeline(t5_tokenizer(), t5_encoder(), vae(), _pixart_transformer(), ddim())


def gemma() -> Any:
    return transformers.Gemma2Model(
        transformers.Gemma2Config(
            vocab_size=512,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            attn_implementation="eager",
        )
    )


def sana() -> Any:
    return diffusers.SanaPipeline(
        tokenizer=plain_tokenizer(300),
        text_encoder=gemma(),
        vae=diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            downsample_block_type="conv",
            upsample_block_type="interpolate",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
            scaling_factor=0.41407,
        ),
        transformer=diffusers.SanaTransformer2DModel(
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=4,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
        ),
        scheduler=flow(),
    )


def lumina2() -> Any:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=4,
            patch_size=2,
            in_channels=4,
            hidden_size=8,
            num_layers=1,
            num_refiner_layers=1,
            num_attention_heads=1,
            num_kv_heads=1,
            multiple_of=16,
            axes_dim_rope=(4, 2, 2),
            axes_lens=(300, 64, 64),
            cap_feat_dim=8,
        ),
        scheduler=flow(),
        vae=vae(4, shift_factor=0.0),
        text_encoder=gemma(),
        tokenizer=plain_tokenizer(300),
    )


def aura_flow() -> Any:
    return diffusers.AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=transformers.UMT5EncoderModel(
            transformers.UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
        ),
        vae=vae(4),
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            caption_projection_dim=32,
            joint_attention_dim=32,
            out_channels=4,
            pos_embed_max_size=64,
        ),
        scheduler=flow(),
    )


def cogview4() -> Any:
    return diffusers.CogView4Pipeline(
        tokenizer=plain_tokenizer(300),
        text_encoder=transformers.GlmModel(
            transformers.GlmConfig(
                hidden_size=32,
                intermediate_size=8,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                vocab_size=512,
                pad_token_id=256,
            )
        ),
        vae=vae(4),
        transformer=diffusers.CogView4Transformer2DModel(
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=4,
            num_attention_heads=4,
            out_channels=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
        ),
    )


def z_image() -> Any:
    return diffusers.ZImagePipeline(
        scheduler=flow(),
        vae=vae(16, shift_factor=0.0),
        text_encoder=transformers.Qwen3Model(
            transformers.Qwen3Config(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                vocab_size=512,
                max_position_embeddings=512,
                head_dim=8,
            )
        ),
        tokenizer=plain_tokenizer(512, chat=True),
        transformer=diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=16,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[8, 4, 4],
            axes_lens=[256, 32, 32],
        ),
    )


def hunyuan_dit() -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz"]
    return diffusers.HunyuanDiTPipeline(
        vae=vae(4, blocks=4),
        text_encoder=transformers.BertModel(
            transformers.BertConfig(
                vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=77
            )
        ),
        tokenizer=transformers.BertTokenizer(vocab={word: number for number, word in enumerate(dict.fromkeys(words))}, model_max_length=77),
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=16,
            num_layers=2,
            patch_size=2,
            attention_head_dim=8,
            num_attention_heads=3,
            in_channels=4,
            cross_attention_dim=32,
            cross_attention_dim_t5=32,
            pooled_projection_dim=16,
            hidden_size=24,
            activation_fn="gelu-approximate",
        ),
        scheduler=diffusers.DDPMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )


def kandinsky22() -> Any:
    return diffusers.KandinskyV22CombinedPipeline(
        unet=diffusers.UNet2DConditionModel(
            in_channels=4,
            out_channels=8,
            addition_embed_type="image",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(16, 32),
            layers_per_block=1,
            encoder_hid_dim=32,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=32,
            attention_head_dim=4,
            resnet_time_scale_shift="scale_shift",
            class_embed_type=None,
            norm_num_groups=8,
            sample_size=8,
        ),
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False, prediction_type="epsilon"
        ),
        movq=diffusers.VQModel(
            block_out_channels=[32, 32],
            down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            in_channels=3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            out_channels=3,
            up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
            vq_embed_dim=4,
        ),
        prior_prior=diffusers.PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1, num_embeddings=77
        ),
        prior_image_encoder=vision_encoder(),
        prior_text_encoder=text_encoder(projected=True, length=77),
        prior_tokenizer=clip_tokenizer(77),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000, clip_sample=True, clip_sample_range=10.0
        ),
        prior_image_processor=vision_processor(),
    )


def _pixel_unet(**more: Any) -> Any:
    return diffusers.UNet2DModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **more,
    )


def ddpm() -> Any:
    return diffusers.DDPMPipeline(_pixel_unet(), diffusers.DDPMScheduler())


def ddim_unconditional() -> Any:
    return diffusers.DDIMPipeline(_pixel_unet(), diffusers.DDIMScheduler())


def consistency() -> Any:
    return diffusers.ConsistencyModelPipeline(
        _pixel_unet(num_class_embeds=3), diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0)
    )


def qwen_image() -> Any:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1000000.0},
            "vocab_size": 512,
            "max_position_embeddings": 2048,
        },
        vision_config={"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16},
    )
    return diffusers.QwenImagePipeline(
        scheduler=flow(),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2, 4],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        tokenizer=plain_tokenizer(2048),
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=16,
            axes_dims_rope=(8, 4, 4),
        ),
    )


def embedding_diffusion() -> Any:
    """The project's own pipeline. Its denoiser starts at zero, so that weights are drawn here."""
    from factory.models.clip import ClipEncoder
    from factory.models.pipeline import EmbeddingDiffusionPipeline
    from factory.models.transformer import PatchTransformer

    clip = ClipEncoder(
        {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 8, "patch_size": 8},
            "text_cfg": {"context_length": 16, "vocab_size": 300, "width": 16, "heads": 2, "layers": 1},
        },
        {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
        plain_tokenizer(),
    )
    transformer = PatchTransformer(in_channels=3, sample_size=16, patch=4, width=32, depth=1, heads=2, embed_dim=16)
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return EmbeddingDiffusionPipeline(transformer, flow(), clip)


INDEX: dict[str, dict[str, Any]] = {  # what the published folders say and save_pretrained leaves out
    "dit": {"id2label": {"0": "tench, Tinca tinca", "1": "goldfish", "2": "cat", "7": "cock"}},
}


def save(name: str, folder: Path, builders: ModuleType = sys.modules[__name__]) -> Path:
    """Build one family with fixed weights and save it. builders: the module with a function of its name."""
    torch.manual_seed(0)
    getattr(builders, name)().save_pretrained(str(folder / name), safe_serialization=True)
    edit_index(folder / name, **INDEX.get(name, {}))
    return folder / name


def ip_adapter(folder: Path, pipe: Any, plus: bool = False) -> Path:
    """Write random image-prompt adapter weights that fit a pipeline's UNet, in the published layout."""
    from safetensors.torch import save_file

    torch.manual_seed(1)
    cross = pipe.unet.config.cross_attention_dim
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * cross, 32),
        "image_proj.proj.bias": torch.zeros(4 * cross),
        "image_proj.norm.weight": torch.ones(cross),
        "image_proj.norm.bias": torch.zeros(cross),
    }
    number = 1
    for name in pipe.unet.attn_processors:
        if name.endswith("attn1.processor"):
            continue
        size = dict(pipe.unet.named_modules())[name.removesuffix(".processor")].to_k.out_features
        tensors[f"ip_adapter.{number}.to_k_ip.weight"] = torch.randn(size, cross)
        tensors[f"ip_adapter.{number}.to_v_ip.weight"] = torch.randn(size, cross)
        number += 2
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "ip-adapter.safetensors")
    return folder


def lora(folder: Path, pipe: Any) -> Path:
    """Write random rank-2 weights for the self-attention of a pipeline's UNet. Needs peft."""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(2)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    pipe.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(pipe.unet))
    return folder


def edit_index(folder: Path, **changes: Any) -> None:
    """Change entries of a saved pipeline's model_index.json."""
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def controlnet(folder: Path, seed: int = 3) -> Path:
    """A ControlNet for `unet()` whose last layers are not zero, so that it steers from the start."""
    torch.manual_seed(seed)
    steering(diffusers.ControlNetModel).save_pretrained(folder)
    return folder


def steering(kind: Any, cross: int = 32, **more: Any) -> Any:
    """A net of a class of ControlNets that fits `unet(cross)`."""
    net = kind(
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        conditioning_embedding_out_channels=(8, 16),
        cross_attention_dim=cross,
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )
    for module in [*net.controlnet_down_blocks, net.controlnet_mid_block, net.controlnet_cond_embedding.conv_out]:
        torch.nn.init.normal_(module.weight, std=0.5)  # zero at first, so that it would not steer
    return net


def textual_inversion(folder: Path, size: int = 32, token: str = "<bird>") -> Path:
    """Two learned vectors in the published layout."""
    from safetensors.torch import save_file

    torch.manual_seed(4)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({token: 3 * torch.randn(2, size)}, folder / "learned_embeds.safetensors")
    return folder


def language_model(folder: Path, chat: bool = False) -> Path:
    """A GPT-2 with random weights over single bytes: it writes gibberish, as untrained models do."""
    torch.manual_seed(5)
    tokenizer = plain_tokenizer(length=512, chat=chat)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
