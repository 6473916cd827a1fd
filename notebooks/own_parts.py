# %% [markdown]
# # Your own operator and network
#
# A restoration consists of objects: a case with its operator, a network, a loss, an optimizer, a stopping rule. Each
# can be replaced by your own, and slots, devices, checkpoints and reports work with it.

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

import dip_jax
from dip_jax import nets, stopping

# %% [markdown]
# ## The operator
#
# A plain JAX function of an image `[H, W, C]` is enough. This camera reads every second row, and moves while it does:
# each measured value is the mean of five neighbors in its row.


# %%
def camera(image: jax.Array) -> jax.Array:
    rows = image[::2]
    return sum(jnp.roll(rows, shift, axis=1) for shift in range(-2, 3)) / 5


clean = (data.astronaut()[30:126, 170:266] / 255).astype(np.float32)
rng = np.random.default_rng(0)
exact = np.asarray(camera(jnp.asarray(clean)))
measured = exact + 0.02 * rng.standard_normal(exact.shape).astype(np.float32)
case = dip_jax.case_from_operator(
    "astronaut", measured, camera, clean.shape, noise_std=0.02, reference=clean
)
print("measured", measured.shape, "for an image", case.shape)


# %% [markdown]
# ## The network
#
# The network is any linen module that maps a code `[H, W, C_in]` to an image `[H, W, C]`. Its normalization uses the
# statistics of the current image, because there is only one.


# %%
class Block(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3))(x)
            x = nn.leaky_relu(nn.GroupNorm(num_groups=None, group_size=1)(x), 0.1)
        return x


class UNet(nn.Module):
    channels: int
    widths: tuple[int, ...] = (16, 32, 64)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scales = []
        for width in self.widths:
            x = Block(width)(x)
            scales.append(x)
            x = nn.avg_pool(x, (2, 2), (2, 2))
        for width, skip in zip(self.widths[::-1], scales[::-1], strict=True):
            x = jax.image.resize(x, (*skip.shape[:2], x.shape[-1]), "bilinear")
            x = Block(width)(jnp.concatenate([x, skip], axis=-1))
        return nn.sigmoid(nn.Conv(self.channels, (1, 1))(x))


own = nets.from_flax(UNet, input_depth=16, multiple_of=8)

# %% [markdown]
# ## The fit
#
# The loss is a function of the prediction and the problem; the optimizer is any transformation of optax.


# %%
def huber(prediction: jax.Array, problem: dip_jax.Problem) -> jax.Array:
    return optax.huber_loss(prediction, problem.measurement, delta=0.1)


steps = 1200
optimizer = optax.adamw(optax.cosine_decay_schedule(0.01, 2000, alpha=0.2))
estimators = {}
for name, net in {"own U-Net": own, "skip": nets.skip(channels_down=(16, 32, 64))}.items():
    fit = dip_jax.build_fit(net, loss=huber, optimizer=optimizer)
    estimators[name] = dip_jax.Estimator(fit, stopping.discrepancy(factor=1.0), num_steps=steps)
results = {name: dip_jax.restore([case], e)[0] for name, e in estimators.items()}

# %%
figure, axes = plt.subplots(1, 2 + len(results), figsize=(13, 3.5))
images = {"clean": clean, "measured (stretched)": np.repeat(np.clip(measured, 0, 1), 2, axis=0)}
images |= {name: result.image for name, result in results.items()}
for axis, (name, image) in zip(axes, images.items(), strict=True):
    axis.imshow(np.clip(image, 0, 1))
    psnr = "" if name == "clean" else f", {peak_signal_noise_ratio(clean, image):.1f} dB"
    axis.set_title(name + psnr, fontsize=9)
    axis.axis("off")
figure.tight_layout()
plt.show()
for name, result in results.items():
    print(f"{name}: {result.num_params:,} weights, {result.status} at step {result.num_steps}")

# %% [markdown]
# ## More steps
#
# A result continues where it ended, here without a stopping rule.

# %%
fit = estimators["own U-Net"].algorithm
(longer,) = dip_jax.restore(
    [case], dip_jax.Estimator(fit, num_steps=1800), start=[results["own U-Net"]]
)
figure, axis = plt.subplots(figsize=(6, 2.5))
axis.plot(longer.curve["step"], longer.curve["psnr_average"])
axis.axvline(results["own U-Net"].num_steps, color="k", ls="--", lw=1)
axis.set_xlabel("step")
axis.set_ylabel("PSNR (dB)")
plt.show()
