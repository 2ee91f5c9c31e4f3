#include "core/wfm/cross_entropy.hpp"

#include <algorithm>
#include <cmath>

#include "core/errors.hpp"
#include "core/parallel.hpp"
#include "core/simd/online.hpp"

namespace flatcore::wfm {

namespace {

constexpr Index kPatternsPerThread = 512;
constexpr Index kEntriesTogether = Index{1} << 22;  // of the activations of several vectors

struct Output {
    double value, pull, bend;
};

// f, f' and f'' at y = σx: −pull is f', bend f''.
Output output_of(double gamma, double y) {
    const double z = 2.0 * gamma * y, e = std::exp(-std::abs(z));
    const double softplus = std::log1p(e) + std::max(0.0, -z);  // log(1 + e^{−z})
    const double pull = z >= 0.0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
    return {softplus / (2.0 * gamma), pull, 2.0 * gamma * e / ((1.0 + e) * (1.0 + e))};
}

// ∏ of all t, and slope_k = ∂(∏ t)/∂h_k: first the products behind k, then those before it.
double parity_slopes(Index units, double beta, const double* t, double* slope) {
    double after = 1.0;
    for (Index k = units - 1; k >= 0; --k) {
        slope[k] = after;
        after *= t[k];
    }
    double before = 1.0;
    for (Index k = 0; k < units; ++k) {
        slope[k] *= before * beta * (1.0 - t[k] * t[k]);
        before *= t[k];
    }
    return before;
}

// t, slope = σ∂x/∂h and the output's terms of one pattern.
Output pattern_terms(const CrossEntropy& loss, double label, const double* h, double* t, double* slope) {
    if (loss.units == 1) {
        t[0] = h[0];
        slope[0] = label;
        return output_of(loss.gamma, label * h[0]);
    }
    for (Index k = 0; k < loss.units; ++k) t[k] = std::tanh(loss.beta * h[k]);
    double x = 0.0;
    if (loss.parity) {
        x = parity_slopes(loss.units, loss.beta, t, slope);
    } else {
        const double root = 1.0 / std::sqrt(static_cast<double>(loss.units));
        for (Index k = 0; k < loss.units; ++k) {
            x += root * t[k];
            slope[k] = root * loss.beta * (1.0 - t[k] * t[k]);
        }
    }
    for (Index k = 0; k < loss.units; ++k) slope[k] *= label;
    return output_of(loss.gamma, label * x);
}

// σ Σ_l ∂²x/∂h_k∂h_l δh_l for all k of a product of units; before: scratch for the dual products before each unit.
void parity_change(const CrossEntropy& loss, double label, const double* t, double* dh, double* before) {
    const Index K = loss.units;
    double value = 1.0, change = 0.0;
    for (Index k = 0; k < K; ++k) {
        before[2 * k] = value;
        before[2 * k + 1] = change;
        change = change * t[k] + value * loss.beta * (1.0 - t[k] * t[k]) * dh[k];
        value *= t[k];
    }
    value = 1.0;
    change = 0.0;
    for (Index k = K - 1; k >= 0; --k) {
        const double c = loss.beta * (1.0 - t[k] * t[k]), dt = c * dh[k];
        const double others = before[2 * k] * value, turned = before[2 * k] * change + before[2 * k + 1] * value;
        change = change * t[k] + value * dt;
        value *= t[k];
        dh[k] = label * (c * turned - 2.0 * loss.beta * t[k] * dt * others);
    }
}

// In place: δh → scale · Σ_l ∂²f/∂h_k∂h_l δh_l.
void pattern_product(const CrossEntropy& loss, double scale, double label, const double* t, const double* slope,
                     double pull, double bend, double* dh, double* scratch) {
    double along = 0.0;
    for (Index k = 0; k < loss.units; ++k) along += slope[k] * dh[k];
    if (loss.units == 1) {
        dh[0] = scale * bend * along * slope[0];
    } else if (loss.parity) {
        parity_change(loss, label, t, dh, scratch);
        for (Index k = 0; k < loss.units; ++k) dh[k] = scale * (bend * along * slope[k] - pull * dh[k]);
    } else {
        for (Index k = 0; k < loss.units; ++k)
            dh[k] = scale * slope[k] * (bend * along + 2.0 * loss.beta * pull * t[k] * dh[k]);
    }
}

}  // namespace

void output_terms(const CrossEntropy& loss, Index patterns, const double* h, const std::int8_t* labels,
                  const OutputTerms& terms) {
    const Index K = loss.units;
    parallel_ranges(patterns, kPatternsPerThread, [&](Index first, Index last) {
        for (Index mu = first; mu < last; ++mu) {
            double *t = terms.t + mu * K, *slope = terms.slope + mu * K;
            const Output at = pattern_terms(loss, labels[mu], h + mu * K, t, slope);
            terms.value[mu] = at.value;
            terms.pull[mu] = at.pull;
            terms.bend[mu] = at.bend;
            for (Index k = 0; k < K; ++k) {
                const double second = K == 1 ? 0.0 : -2.0 * loss.beta * t[k] * slope[k];
                terms.curvature[mu * K + k] = at.bend * slope[k] * slope[k] - at.pull * second;
            }
        }
    });
}

void hessian_product(const CrossEntropy& loss, const Patterns& patterns, const std::int8_t* labels,
                     const OutputTerms& terms, Index vectors, const double* V, double* out, RunControl& control) {
    const Index K = loss.units, P = patterns.patterns, n = patterns.inputs;
    const double scale = 1.0 / (static_cast<double>(P) * static_cast<double>(n));
    // Units that all see the same inputs share a pass over the patterns, whatever vector they belong to.
    const Index together =
        patterns.segments == 1 ? std::clamp<Index>(kEntriesTogether / std::max<Index>(1, P * K), 1, vectors) : 1;
    Matrix<double> dh(P, K * together);
    for (Index first = 0; first < vectors; first += together) {
        const Index count = std::min(together, vectors - first), columns = K * count;
        const MatrixView<double> activations(dh.data(), P, columns);
        fields<double>(patterns, {V + first * K * n, columns, n}, activations, control);
        parallel_ranges(P, kPatternsPerThread, [&](Index begin, Index end) {
            std::vector<double> scratch(static_cast<std::size_t>(2 * K));
            for (Index mu = begin; mu < end; ++mu)
                for (Index v = 0; v < count; ++v)
                    pattern_product(loss, scale, labels[mu], terms.t + mu * K, terms.slope + mu * K, terms.pull[mu],
                                    terms.bend[mu], activations.data + mu * columns + v * K, scratch.data());
        });
        sums<double>(patterns, activations, {out + first * K * n, columns, n}, control);
    }
}

void descent_epoch(const CrossEntropy& loss, const OnlinePatterns& data, Order order, const DescentStep& step,
                   double* w, RunControl& control) {
    const auto& kernels = simd::online();
    ContinuousUnits units(data, w);
    const Index K = data.units, ld = units.padded();
    std::vector<double> gradient(static_cast<std::size_t>(K * ld)), h(static_cast<std::size_t>(K)), t(h), slope(h);
    const double root = 1.0 / std::sqrt(static_cast<double>(data.inputs));
    for (Index first = 0; first < order.count; first += step.batch) {
        const Index last = std::min(order.count, first + step.batch);
        std::fill(gradient.begin(), gradient.end(), 0.0);
        for (Index at = first; at < last; ++at) {
            const Index mu = order.patterns[at];
            if ((at - first) % 64 == 63) control.checkpoint(static_cast<double>(at) / static_cast<double>(order.count));
            units.fields(mu, h.data());
            const Output out = pattern_terms(loss, data.labels[mu], h.data(), t.data(), slope.data());
            for (Index k = 0; k < K; ++k)
                kernels.add(data.inputs, data.row(mu, k), -out.pull * slope[static_cast<std::size_t>(k)],
                            gradient.data() + k * ld);
        }
        const double rate = step.rate * root / static_cast<double>(last - first);
        for (Index k = 0; k < K; ++k)
            for (Index i = 0; i < data.inputs; ++i)
                units.unit(k)[i] -= rate * gradient[static_cast<std::size_t>(k * ld + i)];
        units.normalise();
        control.checkpoint(static_cast<double>(last) / static_cast<double>(order.count));
    }
    units.write(w);
}

}  // namespace flatcore::wfm
