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

void edges_up(const EdgeRow& row, const double* b2, double* q, double* h, double* omega, double* V) {
    constexpr Index L = Lanes<double>::count;
    Double sum = {}, variance = {};
    for (Index i = 0; i < row.n; i += L) {
        const Double b = load(b2 + i), e = exp_of(2.0 * load(row.a + i)), over = 1.0 / (b + e);
        const Double mean = (b - e) * over;
        store(q + i, e);
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

inline Double tame(Double ratio) { return most(least(ratio, all(0x1.79dbc9dc53c66p86)), all(0x1.5ae191a99585ap-87)); }

// One vector of messages: ratio = e^{2ξF} and the message itself, a = ξF. Returns the changes of tanh.
inline Double settle(const EdgeRow& row, Index i, Double q, Double ratio, Double message, double damping, double* S) {
    const Longs inside = below(i, row.n);
    const Double kept = message + damping * (load(row.a + i) - message);
    const Double a = (Double)((Longs)kept & inside);
    store(row.a + i, a);
    store(S + i, load(S + i) + a);
    const Double change = 2.0 * (ratio - q) / ((ratio + 1.0) * (q + 1.0));
    return (Double)((Longs)change & inside & 0x7fffffffffffffffLL);
}

template <class Ratio>
double each_edge(const EdgeRow& row, const Ratio& ratio_of, const double* q, const double* h, double damping,
                 double* S) {
    Double change = {};
    for (Index i = 0; i < row.n; i += Lanes<double>::count) {
        const Longs minus = minus_signs(row, i);
        const Double ratio = tame(ratio_of(signed_by(load(h + i), minus))), field = 0.5 * log_of(ratio);
        const Double with_sign = minus != 0 ? 1.0 / ratio : ratio;
        change = most(change, settle(row, i, load(q + i), with_sign, signed_by(field, minus), damping, S));
    }
    double largest = 0.0;
    for (int lane = 0; lane < Lanes<double>::count; ++lane) largest = change[lane] > largest ? change[lane] : largest;
    return largest;
}

// Powers p of the interpolant of F; false where its last coefficients are not lost in rounding.
template <class Ratio>
bool interpolate(const Ratio& ratio_of, double* p) {
    constexpr int L = Lanes<double>::count, vectors = kNodes / L;
    double values[kNodes], c[kNodes];
    for (int j = 0; j < kNodes; j += L) store(values + j, 0.5 * log_of(tame(ratio_of(load(kChebyshev.nodes + j)))));
    Double sums[vectors] = {}, powers[vectors] = {};
    for (int j = 0; j < kNodes; ++j)
        for (int v = 0; v < vectors; ++v) sums[v] += values[j] * load(kChebyshev.values[j] + v * L);
    for (int v = 0; v < vectors; ++v) store(c + v * L, sums[v]);
    double size = 1.0, last = 0.0;
    for (int k = 0; k < kNodes; ++k) size = __builtin_fabs(c[k]) > size ? __builtin_fabs(c[k]) : size;
    for (int k = kNodes - 3; k < kNodes; ++k) last += __builtin_fabs(c[k]);
    if (!(last <= 1e-13 * size)) return false;
    for (int k = 0; k < kNodes; ++k)
        for (int v = 0; v < vectors; ++v) powers[v] += c[k] * load(kChebyshev.powers[k] + v * L);
    for (int v = 0; v < vectors; ++v) store(p + v * L, powers[v]);
    return true;
}

double each_edge_interpolated(const EdgeRow& row, const double* p, const double* q, const double* h, double damping,
                              double* S) {
    Double change = {};
    for (Index i = 0; i < row.n; i += Lanes<double>::count) {
        const Longs minus = minus_signs(row, i);
        const Double y = signed_by(load(h + i), minus);
        Double field = all(p[kNodes - 1]);
#pragma GCC unroll 16
        for (int k = kNodes - 2; k >= 0; --k) field = field * y + p[k];
        const Double message = signed_by(most(least(field, all(kMostField)), all(-kMostField)), minus);
        change = most(change, settle(row, i, load(q + i), exp_of(2.0 * message), message, damping, S));
    }
    double largest = 0.0;
    for (int lane = 0; lane < Lanes<double>::count; ++lane) largest = change[lane] > largest ? change[lane] : largest;
    return largest;
}

template <class Ratio>
double edges_down_by(const EdgeRow& row, const Ratio& ratio_of, const double* q, const double* h, double damping,
                     double* S) {
    // Below, computing 16 nodes costs as much as it saves; poles of F at y² = 1 − V.
    constexpr Index kFewest = 64;
    double p[kNodes];
    if (row.n >= kFewest && ratio_of.rest >= 4.0 && interpolate(ratio_of, p))
        return each_edge_interpolated(row, p, q, h, damping, S);
    return each_edge(row, ratio_of, q, h, damping, S);
}

double edges_down(const EdgeRow& row, const EdgeOutput& output, const double* q, const double* h, double damping,
                  double* S) {
    const double rest = output.V - 1.0;
    if (output.minus == 0.0) return edges_down_by(row, CertainRatio{output.omega, rest}, q, h, damping, S);
    return edges_down_by(row, SoftRatio{output.omega, rest, output.plus, output.minus}, q, h, damping, S);
}

constexpr EdgeKernels edge_kernels() { return {edges_up, edges_down}; }
