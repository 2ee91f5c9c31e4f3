// The kernels of edges.hpp. Included inside a set's own namespace, after functions.inc.hpp.

constexpr int kNodes = 16;

// cos(jπ/32) for j = 0 … 16.
constexpr double kCosines[] = {1.0,
                               0.99518472667219688624,
                               0.98078528040323044913,
                               0.95694033573220886494,
                               0.92387953251128675613,
                               0.88192126434835502971,
                               0.83146961230254523708,
                               0.77301045336273696081,
                               0.70710678118654752440,
                               0.63439328416364549822,
                               0.55557023301960222474,
                               0.47139673682599764856,
                               0.38268343236508977173,
                               0.29028467725446236764,
                               0.19509032201612826785,
                               0.09801714032956060199,
                               0.0};

constexpr double cosine(int j) {  // cos(jπ/32)
    j %= 64;
    if (j > 32) j = 64 - j;
    return j <= 16 ? kCosines[j] : -kCosines[32 - j];
}

// Nodes y_j = cos((2j + 1)π/32); F = Σ_k c_k T_k with c_k = Σ_j values[j][k] F(y_j); T_k = Σ_i powers[k][i] yⁱ.
struct Chebyshev {
    double nodes[kNodes], values[kNodes][kNodes], powers[kNodes][kNodes];
};

constexpr Chebyshev chebyshev() {
    Chebyshev out{};
    for (int j = 0; j < kNodes; ++j) {
        out.nodes[j] = cosine(2 * j + 1);
        for (int k = 0; k < kNodes; ++k) out.values[j][k] = cosine(k * (2 * j + 1)) * (k == 0 ? 1.0 : 2.0) / kNodes;
    }
    out.powers[0][0] = 1.0;
    out.powers[1][1] = 1.0;
    for (int k = 2; k < kNodes; ++k)
        for (int i = 0; i < kNodes; ++i)
            out.powers[k][i] = (i > 0 ? 2.0 * out.powers[k - 1][i - 1] : 0.0) - out.powers[k - 2][i];
    return out;
}

constexpr Chebyshev kChebyshev = chebyshev();

// The sign bits of ξ for the entries from i on, set where ξ = −1.
inline Longs minus_signs(const EdgeRow& row, Index i) {
    const std::uint32_t word = row.words[(i / 32) * row.stride] ^ (row.flip < 0 ? ~std::uint32_t{0} : 0u);
    Longs shift{};
    for (int lane = 0; lane < Lanes<double>::count; ++lane) shift[lane] = 63 - lane;
    const Longs bits = Longs{} + static_cast<std::int64_t>(~word >> (i % 32));
    return (Longs)((UnsignedLongs)bits << (UnsignedLongs)shift) & (Longs)(UnsignedLongs{} + (1ULL << 63));
}

inline Double signed_by(Double x, Longs minus) { return (Double)((Longs)x ^ minus); }

// All bits set in lanes of entries i … that are below n.
inline Longs below(Index i, Index n) {
    Longs lane{};
    for (int l = 0; l < Lanes<double>::count; ++l) lane[l] = l;
    return lane < Longs{} + static_cast<std::int64_t>(n - i);
}

void edges_up(const EdgeRow& row, const double* b2, double* h, double* omega, double* V) {
    constexpr Index L = Lanes<double>::count;
    Double sum = {}, variance = {};
    for (Index i = 0; i < row.n; i += L) {
        const Double b = load(b2 + i), e = exp_of(2.0 * load(row.a + i)), over = 1.0 / (b + e);
        const Double mean = (b - e) * over;
        store(h + i, mean);
        sum += signed_by(mean, minus_signs(row, i));
        variance += 4.0 * (b * over) * (e * over);
    }
    const Index padding = (row.n + L - 1) / L * L - row.n;  // where h = 0
    *omega = lane_total(sum);
    *V = lane_total(variance) - static_cast<double>(padding);
}

// e^{2F(y)}: Q(z₊)/Q(z₋), within e^{±60}.
struct SoftRatio {
    double omega, rest, plus, minus;

    Double operator()(Double y) const {
        const Double center = omega - y, over = square_root(1.0 / most(rest + y * y, all(kLeastVariance)));
        return part((center + 1.0) * over) / part((center - 1.0) * over);
    }
    Double part(Double z) const {
        const Double tail = half_erfcx(z) * exp_of(-0.5 * z * z), rise = z < 0.0 ? tail : 1.0 - tail;
        const Double fall = z < 0.0 ? 1.0 - tail : tail;
        return plus * rise + minus * fall;
    }
};

// The same for p₋ = 0, where Q = Φ may underflow: below zero Φ is e^{−z²/2} times a tame factor, and the exponents
// are subtracted. z₊ > z₋; both below zero: z₋²/2 − z₊²/2 = −2(ω − y)/s².
struct CertainRatio {
    double omega, rest;

    Double operator()(Double y) const {
        const Double center = omega - y, square = 1.0 / most(rest + y * y, all(kLeastVariance));
        const Double over = square_root(square), high = (center + 1.0) * over, low = (center - 1.0) * over;
        const Double high_exp = exp_of(high < 0.0 ? least(-2.0 * center * square, all(200.0)) : -0.5 * high * high);
        const Double low_exp = exp_of(low < 0.0 ? least(0.5 * low * low, all(200.0)) : -0.5 * low * low);
        const Double high_part = half_erfcx(high), low_part = half_erfcx(low);
        const Double upper = high < 0.0 ? high_part * high_exp : 1.0 - high_part * high_exp;
        const Double lower = low < 0.0 ? low_part : 1.0 - low_part * low_exp;
        return upper * (high < 0.0 || low >= 0.0 ? all(1.0) : low_exp) / lower;
    }
};

inline double largest_lane(Double x) {
    double largest = x[0];
    for (int lane = 1; lane < Lanes<double>::count; ++lane) largest = x[lane] > largest ? x[lane] : largest;
    return largest;
}

inline Double tame(Double ratio) { return most(least(ratio, all(0x1.79dbc9dc53c66p86)), all(0x1.5ae191a99585ap-87)); }

// One vector of messages ξF. `change` holds the largest changes of tanh so far.
inline void settle(const EdgeRow& row, Index i, Double message, double damping, double* S, Double& change) {
    const Longs inside = below(i, row.n);
    const Double old = load(row.a + i), step = modulus(message - old);
    if (any((step > change) & inside)) {
        const Double e = exp_of(2.0 * old), fresh = exp_of(2.0 * message);
        const Double turn = modulus(2.0 * (fresh - e) / ((fresh + 1.0) * (e + 1.0)));
        change = most(change, all(largest_lane((Double)((Longs)turn & inside))));
    }
    const Double a = (Double)((Longs)(message + damping * (old - message)) & inside);
    store(row.a + i, a);
    store(S + i, load(S + i) + a);
}

template <class Ratio>
double each_edge(const EdgeRow& row, const Ratio& ratio_of, const double* h, double damping, double change, double* S) {
    Double changes = all(change);
    for (Index i = 0; i < row.n; i += Lanes<double>::count) {
        const Longs minus = minus_signs(row, i);
        const Double field = 0.5 * log_of(tame(ratio_of(signed_by(load(h + i), minus))));
        settle(row, i, signed_by(field, minus), damping, S, changes);
    }
    return changes[0];
}

// The polynomial with powers p.
inline Double polynomial(const double* p, Double y) {
    const Double y2 = y * y;
    Double even = all(p[kNodes - 2]), odd = all(p[kNodes - 1]);
#pragma GCC unroll 8
    for (int k = kNodes - 4; k >= 0; k -= 2) {
        even = even * y2 + p[k];
        odd = odd * y2 + p[k + 1];
    }
    return even + odd * y;
}

double each_edge_interpolated(const EdgeRow& row, const double* p, const double* h, double damping, double change,
                              double* S) {
    Double changes = all(change);
    for (Index i = 0; i < row.n; i += Lanes<double>::count) {
        const Longs minus = minus_signs(row, i);
        const Double value = polynomial(p, signed_by(load(h + i), minus));
        const Double field = most(least(value, all(kMostField)), all(-kMostField));
        settle(row, i, signed_by(field, minus), damping, S, changes);
    }
    return changes[0];
}

template <class Ratio>
void values_at_nodes(const Ratio& ratio_of, double* values) {
    for (int j = 0; j < kNodes; j += Lanes<double>::count)
        store(values + j, 0.5 * log_of(tame(ratio_of(load(kChebyshev.nodes + j)))));
}

// Values at the nodes into the interpolant's powers, in place; false where its last coefficients are not lost in the
// rounding of the others, of which the largest is taken for `least_size` at least.
bool interpolate(double* values, double least_size) {
    constexpr int L = Lanes<double>::count, vectors = kNodes / L;
    double c[kNodes];
    Double sums[vectors] = {}, others[vectors] = {};
    for (int j = 0; j < kNodes; j += 2)
        for (int v = 0; v < vectors; ++v) {
            sums[v] += values[j] * load(kChebyshev.values[j] + v * L);
            others[v] += values[j + 1] * load(kChebyshev.values[j + 1] + v * L);
        }
    Double size = all(least_size);
    for (int v = 0; v < vectors; ++v) {
        sums[v] += others[v];
        others[v] = Double{};
        store(c + v * L, sums[v]);
        size = most(size, modulus(sums[v]));
        sums[v] = Double{};
    }
    double last = 0.0;
    for (int k = kNodes - 3; k < kNodes; ++k) last += __builtin_fabs(c[k]);
    if (!(last <= 1e-13 * largest_lane(size))) return false;
    for (int k = 0; k < kNodes; k += 2)
        for (int v = 0; v < vectors; ++v) {
            sums[v] += c[k] * load(kChebyshev.powers[k] + v * L);
            others[v] += c[k + 1] * load(kChebyshev.powers[k + 1] + v * L);
        }
    for (int v = 0; v < vectors; ++v) store(values + v * L, sums[v] + others[v]);
    return true;
}

// function(ratio): Q(z₊)/Q(z₋) of one unit.
template <class Function>
inline auto with_ratio(const EdgeOutput& output, const Function& function) {
    const double rest = output.V - 1.0;
    if (output.minus == 0.0) return function(CertainRatio{output.omega, rest});
    return function(SoftRatio{output.omega, rest, output.plus, output.minus});
}

constexpr Index kFewestInterpolated = 64;  // edges below which the nodes cost as much as they save

// F has poles at y² = 1 − V.
inline bool worth_interpolating(const EdgeRow& row, const EdgeOutput& output) {
    return row.n >= kFewestInterpolated && output.V >= 5.0;
}

double edges_down(Index units, const EdgeRow* rows, const EdgeOutput* outputs, const double* h, Index ld,
                  double damping, double change, double* S, double* scratch) {
    for (Index k = 0; k < units; ++k) {
        if (!worth_interpolating(rows[k], outputs[k])) continue;
        with_ratio(outputs[k], [&](const auto& ratio) { values_at_nodes(ratio, scratch + k * kEdgeScratch); });
    }
    for (Index k = 0; k < units; ++k) {
        double* const values = scratch + k * kEdgeScratch;
        if (worth_interpolating(rows[k], outputs[k]) && interpolate(values, 1.0)) {
            change = each_edge_interpolated(rows[k], values, h + k * ld, damping, change, S + k * ld);
        } else {
            change = with_ratio(outputs[k], [&](const auto& ratio) {
                return each_edge(rows[k], ratio, h + k * ld, damping, change, S + k * ld);
            });
        }
    }
    return change;
}

// -- continuous weights

void gaussian_up(const EdgeRow& row, const double* mean, double c, double s, double* y, EdgeOutput& output) {
    Double sum = {}, span = {};
    for (Index i = 0; i < row.n; i += Lanes<double>::count) {
        const Double cavity = c * (signed_by(load(mean + i), minus_signs(row, i)) - (c * s) * load(row.a + i));
        store(y + i, cavity);
        sum += cavity;
        span = most(span, modulus(cavity));
    }
    output.omega = lane_total(sum);
    output.span = largest_lane(span);
}

constexpr double kInverseSqrt2Pi = 0.39894228040143267794;

// φ(z)/Φ(z): below zero the exponentials cancel.
inline Double certain_slope(Double z) {
    const Double part = half_erfcx(z), e = exp_of(-0.5 * z * z);
    return kInverseSqrt2Pi * (z < 0.0 ? all(1.0) : e) / (z < 0.0 ? part : 1.0 - part * e);
}

// φ(z)(p₊ − p₋)/Q(z)
inline Double soft_slope(Double z, Double plus, Double minus) {
    const Double e = exp_of(-0.5 * z * z), tail = half_erfcx(z) * e;
    const Double rise = z < 0.0 ? tail : 1.0 - tail, fall = z < 0.0 ? 1.0 - tail : tail;
    return kInverseSqrt2Pi * (plus - minus) * e / (plus * rise + minus * fall);
}

// g' of one unit.
struct Slope {
    double omega, over, plus, minus;

    Double operator()(Double y) const {
        const Double z = (omega - y) * over;
        return over * (minus == 0.0 ? certain_slope(z) : soft_slope(z, all(plus), all(minus)));
    }
};

// slope(y): g' of an edge. Returns max |g' − g|.
template <class Function>
double gaussian_edges(const EdgeRow& row, const double* y, double damping, double* S, const Function& slope) {
    Double change = {};
    for (Index i = 0; i < row.n; i += Lanes<double>::count) {
        const Longs inside = below(i, row.n);
        const Double old = load(row.a + i), g = slope(load(y + i));
        const Double kept = (Double)((Longs)(g + damping * (old - g)) & inside);
        store(row.a + i, kept);
        store(S + i, load(S + i) + signed_by(kept, minus_signs(row, i)));
        change = most(change, (Double)((Longs)modulus(g - old) & inside));
    }
    return largest_lane(change);
}

double gaussian_down(const EdgeRow& row, const EdgeOutput& output, const double* y, double damping, double* S) {
    const Slope slope{output.omega, 1.0 / __builtin_sqrt(output.V), output.plus, output.minus};
    if (row.n >= kFewestInterpolated && output.span > 0.0) {
        double p[kNodes];
        for (int j = 0; j < kNodes; j += Lanes<double>::count)
            store(p + j, slope(output.span * load(kChebyshev.nodes + j)));
        if (interpolate(p, 0.0)) {
            const double over = 1.0 / output.span;
            return gaussian_edges(row, y, damping, S, [&](Double at) { return polynomial(p, over * at); });
        }
    }
    return gaussian_edges(row, y, damping, S, slope);
}

constexpr EdgeKernels edge_kernels() { return {edges_up, edges_down, gaussian_up, gaussian_down}; }
