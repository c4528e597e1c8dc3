"""More real pipeline classes at tiny size: editing, variation, enlarging, control, guidance by perturbed attention, token models, cascades."""

from __future__ import annotations

from typing import Any

import diffusers
import transformers

from tests import tiny_pipelines as tiny


def _changed(model: Any, changes: dict[str, Any]) -> Any:
    """A model of the same class with other settings."""
    return type(model)(**{name: value for name, value in model.config.items() if not name.startswith("_")} | changes)


def instruct_pix2pix() -> Any:
    return tiny.stable(diffusers.StableDiffusionInstructPix2PixPipeline, {"in_channels": 8}, **tiny.UNSAFE)


def image_variation() -> Any:
    return diffusers.StableDiffusionImageVariationPipeline(
        vae=tiny.vae(),
        image_encoder=tiny.vision_encoder(),
        unet=tiny.unet(),
        scheduler=tiny.ddim(),
        **{**tiny.UNSAFE, "feature_extractor": tiny.vision_processor()},
    )


def perturbed_attention() -> Any:
    return tiny.stable(diffusers.StableDiffusionPAGPipeline, pag_applied_layers=["mid"], **tiny.UNSAFE)


def upscale() -> Any:
    settings, noise = {"in_channels": 7, "num_class_embeds": 1000}, diffusers.DDPMScheduler()
    return tiny.stable(diffusers.StableDiffusionUpscalePipeline, settings, low_res_scheduler=noise, max_noise_level=350)


def text_to_image_adapter() -> Any:
    adapter = diffusers.T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter")
    order = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    return tiny.stable(diffusers.StableDiffusionAdapterPipeline, order, adapter=adapter, **tiny.UNSAFE)


def control_union() -> Any:
    base = tiny.sdxl()
    net = tiny.steering(
        diffusers.ControlNetUnionModel,
        64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
        transformer_layers_per_block=(1, 1),
        num_trans_channel=8,
        num_proj_channel=8,
        num_trans_head=2,
        num_control_type=6,
    )
    return diffusers.StableDiffusionXLControlNetUnionPipeline(**base.components, controlnet=net, add_watermarker=False)


def _flux(transformer_channels: int = 4, out: int | None = None) -> dict[str, Any]:
    parts = tiny.flux().components
    changes = {"in_channels": transformer_channels, "out_channels": out, "guidance_embeds": True}
    parts["transformer"] = _changed(parts["transformer"], changes)
    return {name: part for name, part in parts.items() if name not in ("image_encoder", "feature_extractor")}


def flux_kontext() -> Any:
    return diffusers.FluxKontextPipeline(**_flux())


def flux_fill() -> Any:
    return diffusers.FluxFillPipeline(**_flux(4 + 4 + 16, 4))


def flux_control() -> Any:
    return diffusers.FluxControlPipeline(**_flux(8, 4))


def amused() -> Any:
    return diffusers.AmusedPipeline(
        vqvae=diffusers.VQModel(
            act_fn="silu",
            block_out_channels=[8],
            down_block_types=["DownEncoderBlock2D"],
            in_channels=3,
            latent_channels=8,
            layers_per_block=1,
            norm_num_groups=8,
            num_vq_embeddings=8,
            out_channels=3,
            sample_size=8,
            up_block_types=["UpDecoderBlock2D"],
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        ),
        tokenizer=tiny.clip_tokenizer(77),
        text_encoder=tiny.text_encoder(8, projected=True, length=77, projection=8),
        transformer=diffusers.UVit2DModel(
            hidden_size=8,
            use_bias=False,
            hidden_dropout=0.0,
            cond_embed_dim=8,
            micro_cond_encode_dim=2,
            micro_cond_embed_dim=10,
            encoder_hidden_size=8,
            vocab_size=32,
            codebook_size=8,
            in_channels=8,
            block_out_channels=8,
            num_res_blocks=1,
            downsample=True,
            upsample=True,
            block_num_heads=1,
            num_hidden_layers=1,
            num_attention_heads=1,
            attention_dropout=0.0,
            intermediate_size=8,
            layer_norm_eps=1e-06,
            ln_elementwise_affine=True,
        ),
        scheduler=diffusers.AmusedScheduler(mask_token_id=31),
    )


def kandinsky3() -> Any:
    return diffusers.Kandinsky3Pipeline(
        tokenizer=tiny.t5_tokenizer(128),
        text_encoder=tiny.t5_encoder(),
        unet=diffusers.Kandinsky3UNet(
            in_channels=4,
            time_embedding_dim=4,
            groups=2,
            attention_head_dim=4,
            layers_per_block=3,
            block_out_channels=(16, 32),
            cross_attention_dim=4,
            encoder_hid_dim=32,
        ),
        scheduler=diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012, clip_sample=True),
        movq=tiny.kandinsky22().movq,
    )


def kandinsky22_inpaint() -> Any:
    """It lays the first image of a batch round what is repainted in every one."""
    parts = tiny.kandinsky22().components
    return diffusers.KandinskyV22InpaintCombinedPipeline(**parts | {"unet": _changed(parts["unet"], {"in_channels": 9})})


def chroma_from_image() -> Any:
    """Saved as image to image, of which diffusers' tables know no text-to-image sibling."""
    return diffusers.ChromaImg2ImgPipeline(**{name: part for name, part in tiny.chroma().components.items() if part is not None})


def omni_gen() -> Any:
    """It encodes its prompts inside the call and pads them to the longest."""
    return diffusers.OmniGenPipeline(
        transformer=diffusers.OmniGenTransformer2DModel(
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=32,
            num_layers=1,
            in_channels=4,
            time_step_dim=4,
            rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]},
        ),
        vae=tiny.vae(4, blocks=4),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        tokenizer=tiny.plain_tokenizer(512),
    )


def wan() -> Any:
    """A pipeline of videos."""
    return diffusers.WanPipeline(
        tokenizer=tiny.t5_tokenizer(),
        text_encoder=transformers.UMT5EncoderModel(
            transformers.UMT5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4)
        ),
        vae=diffusers.AutoencoderKLWan(
            base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        ),
        scheduler=tiny.flow(),
        transformer=diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=16,
            out_channels=16,
            text_dim=32,
            freq_dim=256,
            ffn_dim=32,
            num_layers=1,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
    )


def sana_sprint() -> Any:
    parts = tiny.sana().components
    parts["transformer"] = _changed(parts["transformer"], {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"})
    parts["scheduler"] = diffusers.SCMScheduler()
    return diffusers.SanaSprintPipeline(**parts)


def unconditional_latent() -> Any:
    return diffusers.LDMPipeline(
        vqvae=diffusers.VQModel(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=3,
            norm_num_groups=8,
        ),
        unet=tiny._pixel_unet(),
        scheduler=diffusers.DDIMScheduler(),
    )
