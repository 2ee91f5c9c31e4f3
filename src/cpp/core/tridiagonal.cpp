#include "core/tridiagonal.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flatcore {

namespace {

constexpr int kMostIterations = 100;
constexpr double kEps = std::numeric_limits<double>::epsilon();

double gershgorin(const Tridiagonal& T) {
    double bound = -std::numeric_limits<double>::infinity();
    const std::size_t n = T.a.size();
    for (std::size_t i = 0; i < n; ++i) {
        const double left = i > 0 ? std::abs(T.b[i]) : 0.0, right = i + 1 < n ? std::abs(T.b[i + 1]) : 0.0;
        bound = std::max(bound, T.a[i] + left + right);
    }
    return bound;
}

struct Sums {
    double G, H;
    bool above;  // x lies above the spectrum
};

// With g_i = d_i'/d_i and h_i = −g_i', r_i = b_i²/d_{i−1}: d_i' = 1 + r_i g_{i−1}, d_i'' = −r_i (g_{i−1}² + h_{i−1}).
Sums inverse_moments(const Tridiagonal& T, double x) {
    Sums sums{0.0, 0.0, true};
    double inverse = 0.0, g = 0.0, h = 0.0;
    for (std::size_t i = 0; i < T.a.size(); ++i) {
        const double r = i > 0 ? T.b[i] * T.b[i] * inverse : 0.0;
        const double d = x - T.a[i] - r;
        if (!(d > 0.0)) return {0.0, 0.0, false};
        inverse = 1.0 / d;
        const double curvature = -r * (g * g + h) * inverse;
        g = (1.0 + r * g) * inverse;
        h = g * g - curvature;
        sums.G += g;
        sums.H += h;
    }
    return sums;
}

double nonzero(double pivot, double tiny) { return std::abs(pivot) > tiny ? pivot : std::copysign(tiny, pivot); }

}  // namespace

Tridiagonal Tridiagonal::negated() const {
    Tridiagonal out{a, b};
    for (double& entry : out.a) entry = -entry;
    return out;
}

double largest_eigenvalue(const Tridiagonal& T, double hint) {
    const double n = static_cast<double>(T.a.size()), bound = gershgorin(T);
    double x = bound;
    Sums sums{0.0, 0.0, false};
    if (hint < bound) sums = inverse_moments(T, x = hint);
    if (!sums.above) sums = inverse_moments(T, x = bound);
    for (int iteration = 0; iteration < kMostIterations && sums.above; ++iteration) {
        const double spread = std::max(0.0, (n - 1.0) * (n * sums.H - sums.G * sums.G));
        const double next = x - n / (sums.G + std::sqrt(spread));
        if (!(x - next > 4.0 * kEps * std::abs(x))) return next;
        x = next;
        sums = inverse_moments(T, x);
    }
    return x;
}

std::vector<double> eigenvector(const Tridiagonal& T, double lambda) {
    const std::size_t n = T.a.size();
    double size = std::abs(lambda);
    for (std::size_t i = 0; i < n; ++i) size = std::max({size, std::abs(T.a[i]), i > 0 ? std::abs(T.b[i]) : 0.0});
    std::vector<double> s(n, 0.0), d(n), u(n);
    const double tiny = std::max(kEps * kEps * size, std::numeric_limits<double>::min());
    for (std::size_t i = 0; i < n; ++i)
        d[i] = nonzero(lambda - T.a[i] - (i > 0 ? T.b[i] * T.b[i] / d[i - 1] : 0.0), tiny);
    for (std::size_t i = n; i-- > 0;)
        u[i] = nonzero(lambda - T.a[i] - (i + 1 < n ? T.b[i + 1] * T.b[i + 1] / u[i + 1] : 0.0), tiny);
    std::size_t twist = 0;
    double least = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < n; ++i) {
        const double gamma = std::abs(d[i] + u[i] - (lambda - T.a[i]));
        if (gamma < least) {
            least = gamma;
            twist = i;
        }
    }
    s[twist] = 1.0;
    double norm2 = 1.0;
    for (std::size_t i = twist; i-- > 0;) norm2 += (s[i] = T.b[i + 1] * s[i + 1] / d[i]) * s[i];
    for (std::size_t i = twist + 1; i < n; ++i) norm2 += (s[i] = T.b[i] * s[i - 1] / u[i]) * s[i];
    for (double& entry : s) entry /= std::sqrt(norm2);
    return s;
}

}  // namespace flatcore
