// The kernels of amp.hpp. Included inside a set's own namespace, after edges.inc.hpp.

inline void store_narrowed(float* at, Double value) {
    *reinterpret_cast<HalfFloatAnywhere*>(at) = __builtin_convertvector(value, HalfFloat);
}
inline void store_narrowed(double* at, Double value) { store(at, value); }

// step(first, counted) on whole vectors of [0, n), and last on the rest, where `counted` holds the lanes below n.
template <class Step>
inline void each_vector(Index n, const Step& step) {
    Index i = 0;
    for (; i + Lanes<double>::count <= n; i += Lanes<double>::count) step(i, ~Longs{});
    if (i < n) step(i, below(i, n));
}

// Lanes<double>::count entries, those behind n zero.
template <class T>
inline Double load_counted(const T* at, Longs counted) {
    if (!any(~counted)) return Read<double>::from(at);
    Double out{};
    for (int lane = 0; lane < Lanes<double>::count && counted[lane]; ++lane) out[lane] = static_cast<double>(at[lane]);
    return out;
}
template <class T>
inline void store_counted(T* at, Double value, Longs counted) {
    if (!any(~counted)) return store_narrowed(at, value);
    for (int lane = 0; lane < Lanes<double>::count && counted[lane]; ++lane) at[lane] = static_cast<T>(value[lane]);
}

inline Double load_signs(const std::int8_t* at, Longs counted) {
    Double out{};
    for (int lane = 0; lane < Lanes<double>::count; ++lane) out[lane] = counted[lane] ? at[lane] : 0;
    return out;
}

template <class T>
double amp_means(Index n, const T* S, const T* f, T* m) {
    Double rest{};
    each_vector(n, [&](Index i, Longs counted) {
        const Double b = load_counted(S + i, counted) + load_counted(f + i, counted), e = exp_of(-2.0 * modulus(b));
        const Double over = 1.0 / (1.0 + e), size = (1.0 - e) * over;
        store_counted(m + i, b < 0.0 ? -size : size, counted);
        rest += (Double)((Longs)(4.0 * (e * over) * over) & counted);
    });
    return lane_total(rest);
}

// Where Φ(z) = den·e^{−z²/2} (z < 0) or den, φ(z)/Φ(z) = num/(√(2π)·den): nothing underflows.
struct CertainOutput {
    Double num, den, square;

    explicit CertainOutput(Double z) : square(0.5 * z * z) {
        const Double part = half_erfcx(z), e = exp_of(-square);
        num = z < 0.0 ? all(1.0) : e;
        den = z < 0.0 ? part : 1.0 - part * e;
        square = z < 0.0 ? square : all(0.0);
    }
    Double slope() const { return 0.39894228040143267794 * num / den; }
};

template <class T>
void amp_outputs(Index n, const AmpUnit& unit, const std::int8_t* sign, T* fields, T* g, AmpOutputSums& sums) {
    const double root = __builtin_sqrt(unit.variance), over = 1.0 / root;
    Double change{}, gamma{}, square{}, product = all(1.0), exponent{}, logs{};
    int factors = 0;
    each_vector(n, [&](Index i, Longs counted) {
        const Double signs = load_signs(sign + i, counted), old = load_counted(g + i, counted);
        const Double z = (unit.c * signs * load_counted(fields + i, counted) - unit.variance * old) * over;
        const CertainOutput output(z);
        const Double fresh = output.slope() * over, kept = fresh + unit.damping * (old - fresh);
        store_counted(g + i, kept, counted);
        store_counted(fields + i, signs * kept, counted);
        const Double turn = modulus(fresh - old) * root, bend = fresh * (fresh + z * over);
        change = most(change, (Double)((Longs)turn & counted));
        gamma += (Double)((Longs)bend & counted);
        square += (Double)((Longs)(kept * kept) & counted);
        exponent += (Double)((Longs)output.square & counted);
        product *= counted ? output.den : all(1.0);
        if (++factors == 4) {
            logs += log_of(product);
            product = all(1.0);
            factors = 0;
        }
    });
    logs += log_of(product);
    sums.log_partition += lane_total(logs) - lane_total(exponent);
    sums.gamma += lane_total(gamma);
    sums.square += lane_total(square);
    const double largest = largest_lane(change);
    sums.change = largest > sums.change ? largest : sums.change;
}

template <class T>
constexpr AmpKernels<T> amp_kernels() {
    return {amp_means<T>, amp_outputs<T>};
}
