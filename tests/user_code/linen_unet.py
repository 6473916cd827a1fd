import flax.linen as nn
import jax

import dip_jax


class UNet(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, code: jax.Array) -> jax.Array:
        fine = nn.relu(nn.Conv(8, (3, 3))(code))
        coarse = nn.relu(nn.Conv(16, (3, 3), strides=2)(fine))
        wide = jax.image.resize(coarse, (*fine.shape[:2], 16), "bilinear")
        return nn.sigmoid(nn.Conv(self.channels, (3, 3))(jax.numpy.concatenate([fine, wide], -1)))


fit = dip_jax.build_fit(dip_jax.nets.from_flax(UNet, input_depth=8, multiple_of=2))
estimator = dip_jax.Estimator(fit, num_steps=24)
