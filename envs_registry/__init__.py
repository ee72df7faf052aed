"""Environment ids for Gymnasium: importing this package registers them.

It imports nothing but Gymnasium, so `gym.make("envs_registry:ZeroSearch-v0")` loads an
environment's own package only when that environment is made.
"""

from envs_registry.specs import SPECS, EnvironmentSpec, register_all

__all__ = ["SPECS", "EnvironmentSpec", "register_all"]

register_all()
