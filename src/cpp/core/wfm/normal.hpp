// Functions of the normal law that keep their digits in both tails, one number at a time.
//
//   log Φ(z), and the inverse Mills ratio φ(z)/Φ(z): from erfc above z = −37, from the asymptotic series
//   Φ(−x) = φ(x)/x·(1 − 1/x² + 3/x⁴ − …) below, where its terms fall to 1e-14
//
//   atanh erf(x) = ½[log Φ(√2 x) − log Φ(−√2 x)]
//   log cosh(x)  = |x| + log1p(e^{−2|x|}) − log 2
//
// source  docs/wide-flat-minima.md
#pragma once

#include <cmath>

namespace flatcore::wfm {

constexpr double kSqrtHalf = 0.70710678118654752440;
constexpr double kInverseSqrt2Pi = 0.39894228040143267794;
constexpr double kLogSqrt2Pi = 0.91893853320467274178;
constexpr double kLog2 = 0.69314718055994530942;
constexpr double kSeriesBelow = -37.0;

// Φ(z), to full relative accuracy while it is a normal number.
inline double ndtr(double z) { return 0.5 * std::erfc(-z * kSqrtHalf); }

// 1 − 1/x² + 3/x⁴ − 15/x⁶ + 105/x⁸ for x = |z| >= 37.
inline double mills_series(double z) {
    const double w = 1.0 / (z * z);
    return 1.0 - w * (1.0 - w * (3.0 - w * (15.0 - w * 105.0)));
}

inline double log_ndtr(double z) {
    if (z > 0.0) return std::log1p(-ndtr(-z));
    if (z > kSeriesBelow) return std::log(ndtr(z));
    return -0.5 * z * z - std::log(-z) - kLogSqrt2Pi + std::log(mills_series(z));
}

// φ(z)/Φ(z)
inline double inverse_mills(double z) {
    if (z > kSeriesBelow) return kInverseSqrt2Pi * std::exp(-0.5 * z * z) / ndtr(z);
    return -z / mills_series(z);
}

inline double atanh_erf(double x) {
    const double z = x / kSqrtHalf;
    return 0.5 * (log_ndtr(z) - log_ndtr(-z));
}

inline double log_two_cosh(double x) { return std::fabs(x) + std::log1p(std::exp(-2.0 * std::fabs(x))); }

inline double log_cosh(double x) { return log_two_cosh(x) - kLog2; }

}  // namespace flatcore::wfm
