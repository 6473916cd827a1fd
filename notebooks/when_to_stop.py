# %% [markdown]
# # When to stop
#
# The fit passes the restored image and then reproduces the noise. A stopping rule must find the step without the clean
# image. This notebook runs all rules on one fit.

# %%
import matplotlib.pyplot as plt
import numpy as np
from skimage import data

import dip_jax
from dip_jax import nets, stopping

clean = (data.astronaut()[30:126, 170:266] / 255).astype(np.float32)
rng = np.random.default_rng(0)
noise_std = 25 / 255
noisy = np.clip(clean + noise_std * rng.standard_normal(clean.shape), 0, 1).astype(np.float32)
case = dip_jax.case_from_operator(
    "astronaut", noisy, dip_jax.operators.Identity(), clean.shape, noise_std=noise_std,
    reference=clean,
)  # fmt: skip

# %% [markdown]
# `held_out` hides three percent of the pixels and watches their loss. `wmv` and `emv` watch the variance of the
# outputs. `discrepancy` stops when the misfit falls to the noise level, and `sure` at the minimum of an unbiased
# estimate of the risk; both need the noise level. Rules are objects that run beside the fit; a rule of your own is a
# condition (`stop_when`) or a signal (`stop_at_minimum`).

# %%
fit = dip_jax.build_fit(nets.skip(channels_down=(32, 32, 32)))
rules = {
    "held_out": stopping.held_out(fit),
    "wmv": stopping.wmv(fit),
    "emv": stopping.emv(fit),
    "discrepancy": stopping.discrepancy(),
    "sure": stopping.sure(fit),
    "own": stopping.stop_when(
        lambda problem, step, info: info.loss < 0.8 * noise_std**2, name="own"
    ),
}
estimator = dip_jax.Estimator(
    fit, stopping.compare_rules(rules, returned="held_out"), num_steps=1500
)
(result,) = dip_jax.restore([case], estimator)

# %%
average = result.curve["psnr_average"]
best = int(np.argmax(average))
print(f"{'rule':12} {'stops':>6} {'estimate at':>12} {'PSNR':>7} {'below best':>11}")
for name, (step, has_fired) in result.stops.items():
    gap = average[best] - average[step]
    print(
        f"{name:12} {'yes' if has_fired else 'no':>6} {step:12d} {average[step]:7.2f} {gap:11.2f}"
    )
print(f"best: step {best}, {average[best]:.2f} dB")

# %%
signals = [name for name in result.curve if name.startswith("signal_")]
signals = [name for name in signals if np.isfinite(result.curve[name]).any()]
figure, axes = plt.subplots(1 + len(signals), 1, sharex=True, figsize=(7, 2 + 1.3 * len(signals)))
axes[0].plot(result.curve["step"], result.curve["psnr"], lw=0.5, label="output")
axes[0].plot(result.curve["step"], average, label="running average")
axes[0].set_ylabel("PSNR (dB)")
axes[0].legend(fontsize=8)
for i, name in enumerate(signals):
    rule = name.removeprefix("signal_")
    axes[i + 1].plot(result.curve["step"], result.curve[name], color=f"C{i}", lw=0.9)
    axes[i + 1].axvline(result.stops[rule][0], color="k", ls="--", lw=1)
    axes[i + 1].set_ylabel(rule, fontsize=8)
    if rule != "discrepancy":
        axes[i + 1].set_yscale("log" if np.nanmin(result.curve[name]) > 0 else "linear")
axes[-1].set_xlabel("step")
figure.tight_layout()
plt.show()
