// The kernels of amp.hpp. Included inside a set's own namespace, after edges.inc.hpp.

// By way of 32-bit integers, or compilers go one by one.
typedef std::int32_t HalfInts __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 2)));
typedef std::int8_t QuarterBytes __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 4), aligned(1), may_alias));
typedef std::int8_t EighthBytes __attribute__((vector_size(FLATCORE_VECTOR_BYTES / 8), aligned(1), may_alias));
inline Float widened_signs(const std::int8_t* at, Float) {
    return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const QuarterBytes*>(at), Ints), Float);
}
inline Double widened_signs(const std::int8_t* at, Double) {
    return __builtin_convertvector(__builtin_convertvector(*reinterpret_cast<const EighthBytes*>(at), HalfInts),
                                   Double);
}

// A vector of entries, of which the last ones of an array may be missing.
template <class T>
struct Part {
    using Vector = typename Lanes<T>::Vector;
    static constexpr int count = Lanes<T>::count;

    Index left;

    bool whole() const { return left >= count; }

    template <class S>
    Vector load_from(const S* at) const {
        if constexpr (sizeof(S) == sizeof(T))
            if (whole()) return load(at);
        Vector out{};
        for (int lane = 0; lane < count && lane < left; ++lane) out[lane] = static_cast<T>(at[lane]);
        return out;
    }
    Vector signs_from(const std::int8_t* at) const {
        if (!whole()) return load_from(at);
        return widened_signs(at, Vector{});
    }
    void store_to(T* at, Vector value) const {
        if (whole()) return store(at, value);
        for (int lane = 0; lane < left; ++lane) at[lane] = value[lane];
    }
    // Missing entries replaced.
    Vector or_else(Vector value, T other) const {
        if (whole()) return value;
        for (int lane = static_cast<int>(left); lane < count; ++lane) value[lane] = other;
        return value;
    }
};

// body(first, part) over [0, n).
template <class T, class Body>
inline void each_part(Index n, const Body& body) {
    Index i = 0;
    for (; i + Lanes<T>::count <= n; i += Lanes<T>::count) body(i, Part<T>{Lanes<T>::count});
    if (i < n) body(i, Part<T>{n - i});
}

// Sums and products of many vectors, in double.
inline Double widened_sum(Double x) { return x; }
inline Double widened_sum(Float x) { return widened(x).low + widened(x).high; }
inline Double widened_product(Double x) { return x; }
inline Double widened_product(Float x) { return widened(x).low * widened(x).high; }

template <class T>
double amp_means(Index n, const T* S, const T* f, T* m) {
    using V = typename Lanes<T>::Vector;
    Double rest{};
    each_part<T>(n, [&](Index i, Part<T> part) {
        const V b = part.load_from(S + i) + part.load_from(f + i), e = exp_of(T(-2) * modulus(b));
        const V over = T(1) / (T(1) + e), size = (T(1) - e) * over;
        part.store_to(m + i, b < T(0) ? -size : size);
        rest += widened_sum(part.or_else(T(4) * (e * over) * over, T(0)));
    });
    return lane_total(rest);
}

// Φ(z) = den·e^{−square} and φ(z)/Φ(z) = num/(√(2π)·den): nothing underflows.
template <class V>
struct CertainOutput {
    V num, den, square;

    template <class T>
    static CertainOutput at(V z, T one) {
        const V square = one / T(2) * z * z, part = half_erfcx(z), e = exp_of(-square), ones = V{} + one;
        const auto below = z < T(0);
        return {below ? ones : e, below ? part : ones - part * e, below ? square : V{}};
    }
};

// h(h + z) for h = φ(z)/Φ(z) = slope. It cancels as z²·eps for z → −∞: there it is its series in 1/z².
template <class T, class V>
inline V certain_bend(V slope, V z) {
    constexpr T far = sizeof(T) == 4 ? -10 : -70;
    const V u = T(1) / (z * z), series = T(1) - u * (T(1) - u * (T(6) - u * T(50)));
    return z < far ? series : slope * (slope + z);
}

template <class T>
void amp_outputs(Index n, const AmpUnit& unit, const std::int8_t* sign, T* fields, T* g, AmpOutputSums& sums) {
    using V = typename Lanes<T>::Vector;
    const double root = __builtin_sqrt(unit.variance);
    const T c = static_cast<T>(unit.c), variance = static_cast<T>(unit.variance),
            damping = static_cast<T>(unit.damping), over = static_cast<T>(1.0 / root);
    V change{};
    Double gamma{}, square{}, exponent{}, product = all(1.0), logs{};
    int factors = 0;
    each_part<T>(n, [&](Index i, Part<T> part) {
        const V signs = part.signs_from(sign + i), old = part.load_from(g + i);
        const V z = (c * signs * part.load_from(fields + i) - variance * old) * over;
        const auto output = CertainOutput<V>::at(z, T(1));
        const V slope = T(0.39894228040143267794) * output.num / output.den, fresh = over * slope;
        const V kept = fresh + damping * (old - fresh), turn = modulus(fresh - old);
        part.store_to(g + i, kept);
        part.store_to(fields + i, signs * kept);
        const V known = part.or_else(turn, T(0));
        change = known > change ? known : change;
        gamma += widened_sum(part.or_else(certain_bend<T>(slope, z), T(0)));
        square += widened_sum(part.or_else(kept * kept, T(0)));
        exponent += widened_sum(part.or_else(output.square, T(0)));
        product *= widened_product(part.or_else(output.den, T(1)));
        if (++factors == 4) {
            logs += log_of(product);
            product = all(1.0);
            factors = 0;
        }
    });
    logs += log_of(product);
    sums.log_partition += lane_total(logs) - lane_total(exponent);
    sums.gamma += lane_total(gamma) / unit.variance;
    sums.square += lane_total(square);
    for (int lane = 0; lane < Lanes<T>::count; ++lane) {
        const double largest = root * static_cast<double>(change[lane]);
        sums.change = largest > sums.change ? largest : sums.change;
    }
}

template <class T>
constexpr AmpKernels<T> amp_kernels() {
    return {amp_means<T>, amp_outputs<T>};
}
