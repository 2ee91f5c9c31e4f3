// The γ-cross-entropy of a committee with smooth units: value, derivatives, Hessian products, epochs of SGD.
//
//   L = (1/P) Σ_μ f(σ x),  f(y) = log(1 + e^{−2γy})/(2γ),  h_k = w_k·ξ_k/√n,  t_k = tanh βh_k
//   majority x = Σ_k t_k/√K;  parity x = ∏_k t_k;  one unit: x = h
//
// With slope_k = σ∂x/∂h_k, pull s = 1/(1 + e^{2γσx}) and bend b = 2γs(1 − s) of each pattern,
//
//   ∂f/∂h_k       = −s slope_k
//   ∂²f/∂h_k∂h_l  = b slope_k slope_l − sσ ∂²x/∂h_k∂h_l
//   (∇L)_k = (1/P) Σ_μ ∂f/∂h_k ξ_k/√n,   (Hv)_k = (1/P) Σ_μ [Σ_l ∂²f/∂h_k∂h_l δh_l] ξ_k/√n,  δh_l = ξ_l·v_l/√n
//
// Majority: ∂²x/∂h_k∂h_l = −2βt_k ∂x/∂h_k for k = l, else 0. Parity: with c_k = β(1 − t_k²), the change of
// ∂x/∂h_k = c_k ∏_{l≠k} t_l along δh is −2βt_k c_k δh_k ∏_{l≠k} t_l + c_k d(∏_{l≠k} t_l), from products of dual numbers
// t_l + ε c_l δh_l on the left and right of k: O(K) a pattern, no division by t.
//
// cost    a product: one `fields` and one `sums` of core/wfm/patterns.hpp a vector, O(K) flops a pattern between them.
//         An epoch of SGD: 2·P·K·n signed additions.
// source  docs/wide-flat-minima.md; f after Baldassi, Pittorino and Zecchina, arXiv:1905.07833
#pragma once

#include "core/wfm/online.hpp"

namespace flatcore::wfm {

struct CrossEntropy {
    Index units = 1;
    bool parity = false;
    double beta = 1.0, gamma = 1.0;
};

// Of all patterns: value f (P), t and slope (P × K), pull and bend (P), and the diagonal ∂²f/∂h_k² (P × K).
struct OutputTerms {
    double *value, *t, *slope, *pull, *bend, *curvature;
};

void output_terms(const CrossEntropy& loss, Index patterns, const double* h, const std::int8_t* labels,
                  const OutputTerms& terms);

// out (b × K × n) = H V, V: b × K × n.
void hessian_product(const CrossEntropy& loss, const Patterns& patterns, const std::int8_t* labels,
                     const OutputTerms& terms, Index vectors, const double* V, double* out, RunControl& control);

// w −= rate · (gradient of L over the next `batch` patterns), then ‖w_k‖² = n; through all patterns of the order.
struct DescentStep {
    Index batch = 1;
    double rate = 0.0;
};
void descent_epoch(const CrossEntropy& loss, const OnlinePatterns& data, Order order, const DescentStep& step,
                   double* w, RunControl& control);

}  // namespace flatcore::wfm
