"use strict";

/* The mathematics of docs/obrs_picture.md. Pure functions that node and a browser run.

   Names and definitions are those of the Python core: jackpot/obrs.py, jackpot/divergence.py and
   jackpot/drafting.py. Each argument p or q is an array of probabilities that sum to 1, not of
   their logarithms. p is the target, q the proposal. Results are plain numbers and arrays. KL is
   in nats. tests/docs/test_obrs_picture.py compares every function with the core. */
const obrs = (() => {
  const sum = (x) => x.reduce((total, value) => total + value, 0);

  /* The mass accepted of each token, min(q, p / lam). */
  const accepted_mass = (p, q, lam) => p.map((p_i, i) => Math.min(q[i], p_i / lam));

  /* a = min(1, p / (lam q)). A token with q = 0 < p has a = 1 (the limit), an absent one a = 0. */
  function accept_prob(p, q, lam) {
    return p.map((p_i, i) => (p_i === 0 ? 0 : q[i] === 0 ? 1 : Math.min(1, p_i / (lam * q[i]))));
  }

  /* Z = sum min(q, p / lam). */
  const acceptance_rate = (p, q, lam) => sum(accepted_mass(p, q, lam));

  /* q~ = min(q, p / lam) / Z, or null where p and q share no token: then nothing is accepted. */
  function post_rejection(p, q, lam) {
    const mass = accepted_mass(p, q, lam);
    const z = sum(mass);
    return z > 0 ? mass.map((m) => m / z) : null;
  }

  /* KL(p || q) in nats, Infinity where q = 0 < p. Each term p (e^x - 1 - x) with x = log(q / p) is
     at least 0, so that nothing cancels where p is close to q. */
  function kl_p_q(p, q) {
    const terms = p.map((p_i, i) => {
      if (p_i === 0) return q[i];
      if (q[i] === 0) return Infinity;
      const x = Math.log(q[i]) - Math.log(p_i);
      return x > 1 ? q[i] - p_i - p_i * x : p_i * (Math.expm1(x) - x);
    });
    return sum(terms);
  }

  /* The distribution s = clip(q, p / mu, p / lam) of the tokens that come out of drafting, with mu
     and the rejection rate tau; null for lam above 1, which the core refuses.
     1 / mu is the least (tau + q(T)) / p(T) over the sets T of the tokens with the largest p / q
     (docs/theory_drafting.md, F3). It is at most 1, and mu is Infinity where it is 0. */
  function draft_law(p, q, lam) {
    if (lam > 1) return null;
    const tau = sum(p.map((p_i, i) => Math.max(q[i] - p_i / lam, 0)));
    const falling = p.map((_, i) => i).filter((i) => p[i] > 0);
    falling.sort((i, j) => q[i] / p[i] - q[j] / p[j]);
    let u = 1;
    let q_sum = 0;
    let p_sum = 0;
    for (const i of lam < 1 ? falling : []) {
      q_sum += q[i];
      p_sum += p[i];
      u = Math.min(u, (tau + q_sum) / p_sum);
    }
    const s = p.map((p_i, i) => Math.min(Math.max(q[i], p_i * u), p_i / lam));
    return { s, lam, mu: 1 / u, tau };
  }

  /* Weights, at least 0 and not all 0, divided by their sum. */
  function normalised(weights) {
    const total = sum(weights);
    return weights.map((w) => w / total);
  }

  /* x with the probability of token i set to `value`; the others keep their ratios. */
  function with_token(x, i, value) {
    const rest = sum(x) - x[i];
    return x.map((x_j, j) => {
      if (j === i) return value;
      return (1 - value) * (rest > 0 ? x_j / rest : 1 / (x.length - 1));
    });
  }

  /* Two distributions on eight tokens. p falls from token to token, the faster the larger
     `sharpness` is. log(q / p) is `mismatch` times a fixed pattern, plus a constant. */
  function two_distributions(sharpness, mismatch) {
    const pattern = [-0.9, 0.6, 0.9, -0.7, 0.3, 1.0, -0.2, -1.0];
    const logit = pattern.map((_, i) => (-sharpness * i) / 7);
    return {
      p: normalised(logit.map(Math.exp)),
      q: normalised(logit.map((x, i) => Math.exp(x + mismatch * pattern[i]))),
    };
  }

  /* The points [acceptance rate, KL] of one curve, one for each of `lams`, without infinite KL.
     `kind` is "q_tilde" or "draft". */
  function curve(p, q, lams, kind) {
    const points = lams.map((lam) => {
      const draft = kind === "draft" ? draft_law(p, q, lam) : null;
      const x = kind === "draft" ? draft && draft.s : post_rejection(p, q, lam);
      return x && [acceptance_rate(p, q, lam), kl_p_q(p, x)];
    });
    return points.filter((point) => point && Number.isFinite(point[1]));
  }

  /* All numbers of the page. q_tilde is null where nothing is accepted, draft where lam > 1. */
  function picture(p, q, lam) {
    const q_tilde = post_rejection(p, q, lam);
    const draft = draft_law(p, q, lam);
    return {
      a: accept_prob(p, q, lam),
      z: acceptance_rate(p, q, lam),
      q_tilde,
      draft,
      kl_p_q: kl_p_q(p, q),
      kl_p_q_tilde: q_tilde && kl_p_q(p, q_tilde),
      kl_p_s: draft && kl_p_q(p, draft.s),
    };
  }

  return {
    accept_prob,
    acceptance_rate,
    post_rejection,
    kl_p_q,
    draft_law,
    normalised,
    with_token,
    two_distributions,
    curve,
    picture,
  };
})();

if (typeof module !== "undefined") module.exports = obrs;
