# %% [markdown]
# # A first restoration
#
# Deep Image Prior fits a randomly initialized network to one degraded image. Its structure prefers natural images to
# noise, so the fit passes a restored image before it reproduces the noise. No training data are needed.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

import dip_jax

clean = data.astronaut()[30:126, 170:266]
rng = np.random.default_rng(0)
noisy = np.clip(clean + 25 * rng.standard_normal(clean.shape), 0, 255).astype(np.uint8)

# %% [markdown]
# One call removes the noise. The default fits four networks; here one of them is watched. The fit stops by itself, when
# it no longer predicts pixels that were hidden from it.

# %%
small = {
    "net.channels_down": (32, 32, 32),
    "net.channels_up": (32, 32, 32),
    "net.channels_skip": (4, 4, 4),
    "fit.num_steps": 1200,
}
results: list[dip_jax.Result] = []
restored = dip_jax.denoise(
    noisy,
    noise_std=25,
    preset="denoise_single",
    settings=small,
    reference=clean,
    on_result=results.append,
)


# %%
def show(images: dict[str, np.ndarray]) -> None:
    figure, axes = plt.subplots(1, len(images), figsize=(3 * len(images), 3.3))
    for axis, (title, image) in zip(axes, images.items(), strict=True):
        axis.imshow(image)
        psnr = peak_signal_noise_ratio(clean, image) if image is not clean else np.inf
        axis.set_title(title if np.isinf(psnr) else f"{title}, {psnr:.1f} dB")
        axis.axis("off")
    figure.tight_layout()
    plt.show()


show({"clean": clean, "noisy": noisy, "restored": restored})

# %% [markdown]
# The `Result` has the curve of each quantity over the steps. The PSNR needs the clean image, which serves for this
# curve only: neither the fit nor its stopping rule sees it.

# %%
(result,) = results
figure, axes = plt.subplots(2, 1, sharex=True, figsize=(6, 4))
axes[0].plot(result.curve["step"], result.curve["psnr"], lw=0.6, label="output")
axes[0].plot(result.curve["step"], result.curve["psnr_average"], label="running average")
axes[0].axvline(result.stop_step, color="k", ls="--", lw=1, label="returned")
axes[0].set_ylabel("PSNR (dB)")
axes[0].legend()
axes[1].semilogy(result.curve["step"], result.curve["loss"], label="loss")
axes[1].semilogy(result.curve["step"], result.curve["signal_held_out"], label="held-out loss")
axes[1].set_xlabel("step")
axes[1].legend()
plt.show()
print(f"{result.status} after {result.num_steps} steps; step {result.stop_step} is returned.")

# %% [markdown]
# The network is part of the result: a pure function of its weights and its code. It can be evaluated at other inputs.
# Here, the code is shifted by eight columns, and the image follows.

# %%
assert result.net is not None
shifted = result.net.apply(result.params, np.roll(result.code, 8, axis=1))
output = np.rint(255 * np.clip(np.asarray(shifted), 0, 1)).astype(np.uint8)
show({"restored": restored, "shifted code": output})

# %% [markdown]
# Missing pixels are filled in by the same prior: the network is fitted to the known pixels only.

# %%
known = rng.random(clean.shape[:2]) > 0.6
filled = dip_jax.inpaint(clean * known[..., None], known, settings={**small, "fit.num_steps": 600})
show({"known pixels": clean * known[..., None], "filled in": filled})
