# %% [markdown]
# # The posterior and its calibration
#
# A sampler draws networks from the posterior instead of fitting one. The mean of their outputs needs no stopping rule,
# and their standard deviation is an uncertainty. This notebook asks how far it can be trusted.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

import dip_jax
from dip_jax import losses, nets, posterior, sgld

clean = (data.astronaut()[46:110, 186:250] / 255).astype(np.float32)
rng = np.random.default_rng(0)
noise_std = 25 / 255
noisy = (clean + noise_std * rng.standard_normal(clean.shape)).astype(np.float32)
case = dip_jax.case_from_operator(
    "face", noisy, dip_jax.operators.Identity(), clean.shape, noise_std=noise_std, reference=clean
)

# %% [markdown]
# ## The sampler
#
# Underdamped Langevin dynamics is a transformation of optax, so it takes the place of the optimizer. Adam brings the
# weights near the posterior in the warm-up. The mass and the length of a step follow the gradients until the end of the
# burn-in and are then constant. The code is not perturbed, because that would add noise beyond the temperature.

# %%
steps, burn_in = 2600, 900
sampler = sgld.underdamped(warm_up=180, burn_in=burn_in)
fit = dip_jax.build_fit(
    nets.skip(channels_down=(32, 32, 32)),
    optimizer=sampler,
    guard=dip_jax.Guard(num_steps=180),  # it must not undo the steps of a sampler
    extra_args=dip_jax.sampler_args(losses.gaussian),
    perturbation=0.0,
)
chain = dip_jax.build_sgld(
    fit, samples=dip_jax.every_nth(10, burn_in=burn_in, num_steps=steps), keep_samples=20
)
estimator = dip_jax.Estimator(chain, num_steps=steps, num_networks=2)
(result,) = dip_jax.restore([case], estimator)
samples = result.posterior
assert samples is not None
print(f"{samples.num_samples} samples of 2 chains; stored: {samples.samples.shape}")

# %%
error = np.abs(result.image - clean).mean(axis=-1)
figure, axes = plt.subplots(1, 5, figsize=(14, 3.2))
for axis, (title, image) in zip(
    axes,
    {
        "noisy": np.clip(noisy, 0, 1),
        f"mean, {peak_signal_noise_ratio(clean, result.image):.1f} dB": np.clip(result.image, 0, 1),
        "one sample": np.clip(samples.samples[-1], 0, 1),
        "standard deviation": samples.std.mean(axis=-1),
        "absolute error": error,
    }.items(),
    strict=True,
):
    axis.imshow(image, cmap="magma", vmin=0, vmax=0.12 if image.ndim == 2 else None)
    axis.set_title(title, fontsize=9)
    axis.axis("off")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Have the chains converged?
#
# R-hat compares the chains with each other. A few hundred samples of two chains are seldom enough for a network; the
# message says what to do.

# %%
diagnosis = posterior.diagnose(samples.traces, samples.trace_names)
print(
    f"largest R-hat {diagnosis.rhat_max:.2f}, smallest effective sample size {diagnosis.ess_min:.0f}"
)
print(diagnosis.message)
figure, axis = plt.subplots(figsize=(7, 2.5))
for i, trace in enumerate(samples.traces):
    axis.plot(trace[:, 0], lw=0.8, label=f"chain {i + 1}")
axis.set_xlabel("sample")
axis.set_ylabel(samples.trace_names[0])
axis.legend()
plt.show()

# %% [markdown]
# ## Is the uncertainty calibrated?
#
# Of the true values, 90 % should lie in the 90 % interval. For this small image they do. Large networks often give
# standard deviations that are too small; `calibrate_scaled` then fits one factor to half of the pixels and rates the
# rest. The second figure shows the pattern: the error that remains if the pixels of largest standard deviation are
# removed, and the lowest error that any order could reach.

# %%
raw = posterior.calibrate(samples.mean, samples.std, clean)
scaled = posterior.calibrate_scaled(samples.mean, samples.std, clean)
print(f"coverage of the 90 % interval: {raw.coverage_90:.0%}, scaled {scaled.coverage_90:.0%}")
print(f"factor on the standard deviation: {scaled.applied_scale:.2f}")
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
axes[0].plot([0, 1], [0, 1], color="k", lw=0.8, ls=":")
axes[0].plot(raw.levels, raw.coverage, label="as sampled")
axes[0].plot(scaled.levels, scaled.coverage, label=f"times {scaled.applied_scale:.2f}")
axes[0].set_xlabel("nominal probability")
axes[0].set_ylabel("coverage")
axes[0].legend()
axes[1].plot(raw.removed, raw.rmse_by_std, label="largest standard deviation first")
axes[1].plot(raw.removed, raw.rmse_by_error, label="largest error first")
axes[1].set_xlabel("fraction of pixels removed")
axes[1].set_ylabel("remaining error")
axes[1].legend()
figure.tight_layout()
plt.show()
