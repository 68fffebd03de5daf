"""Parts of `tests.bench.rollout`: a fleet that counts bytes, rollouts on a virtual clock, and two real heads."""
