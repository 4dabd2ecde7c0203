"""Signals: what gradients, losses and predictions say of a training, as formulas on plain numbers.

The one rule: one quantity, one small module, standard library only, with its paper and the limits of its validity;
outside of them it raises ValueError. How the numbers come about is the engine's business, what to do about them that of
the policies.

`noise` (|G|^2 and tr(Sigma)), `simple` (their ratio), `norm_test`, `diversity` and `cosine` are one signal, read in
four ways: B >= b / theta^2, N D = 1 + b, cosine = 1 / (1 + 2 b / B) with b = tr(Sigma) / |G|^2.

`sharpness`, `barrier`, `disagreement` and `calibration` are of finished networks: `bsexp inspect` measures them.
"""
