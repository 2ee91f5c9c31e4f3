#include "bindings/registrations.hpp"
#include "bindings/signals.hpp"
#include "bindings/wfm_arrays.hpp"
#include "core/wfm/cross_entropy.hpp"
#include "core/wfm/online.hpp"

namespace flatcore::bindings {

namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Longs = py::array_t<std::int64_t, py::array::c_style>;
using Labels = py::array_t<std::int8_t, py::array::c_style>;

// rows: uint32 (P, S, C).
wfm::OnlinePatterns online_view(const WordArray& rows, const Labels& labels, Index inputs, Index units, bool parity) {
    require(rows.ndim() == 3 && labels.ndim() == 1 && labels.shape(0) == rows.shape(0),
            "rows of words and their labels do not fit");
    wfm::OnlinePatterns out;
    out.patterns = rows.shape(0);
    out.segments = rows.shape(1);
    out.inputs = inputs;
    out.rows = rows.data();
    out.labels = labels.data();
    out.units = units;
    out.parity = parity;
    require(rows.shape(2) == out.words() && (out.segments == 1 || out.segments == units),
            "rows of words have the wrong shape");
    return out;
}

wfm::Order order_view(const Longs& order, Index patterns) {
    for (Index at = 0; at < order.size(); ++at)
        require(order.data()[at] >= 0 && order.data()[at] < patterns, "a pattern's number is out of range");
    return {order.data(), order.size()};
}

void check_weights(const py::array& weights, Index machines, const wfm::OnlinePatterns& data) {
    require(weights.size() == machines * data.units * data.inputs, "weights have the wrong shape");
}

template <class T>
Index bound_least_action(const WordArray& rows, const Labels& labels, bool parity, const Longs& order,
                         py::array_t<T, py::array::c_style>& weights) {
    require(weights.ndim() == 2, "weights are (K, n)");
    const wfm::OnlinePatterns data = online_view(rows, labels, weights.shape(1), weights.shape(0), parity);
    const wfm::Order view = order_view(order, data.patterns);
    T* const w = weights.mutable_data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    return wfm::least_action_epoch(data, view, w, control);
}

Index bound_margin(const WordArray& rows, const Labels& labels, const Longs& order, double delta, Doubles& weights) {
    require(weights.ndim() == 2, "weights are (K, n)");
    const wfm::OnlinePatterns data = online_view(rows, labels, weights.shape(1), weights.shape(0), false);
    const wfm::Order view = order_view(order, data.patterns);
    double* const w = weights.mutable_data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    return wfm::margin_epoch(data, view, delta, w, control);
}

Index bound_perturbed(const WordArray& rows, const Labels& labels, const Longs& order, double delta, double step,
                      Doubles& weights) {
    require(weights.ndim() == 2, "weights are (K, n)");
    const wfm::OnlinePatterns data = online_view(rows, labels, weights.shape(1), weights.shape(0), false);
    const wfm::Order view = order_view(order, data.patterns);
    double* const w = weights.mutable_data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    return wfm::perturbed_epoch(data, view, delta, step, w, control);
}

Index bound_replicated(const WordArray& rows, const Labels& labels, bool parity, const Longs& orders, Index batch,
                       double lambda, double gamma, Doubles& hidden) {
    require(hidden.ndim() == 3 && orders.ndim() == 2 && orders.shape(0) == hidden.shape(0) && batch > 0,
            "hidden reals are (y, K, n), orders (y, P)");
    const wfm::OnlinePatterns data = online_view(rows, labels, hidden.shape(2), hidden.shape(1), parity);
    require(orders.shape(1) == data.patterns, "orders are (y, P)");
    const wfm::Order view = order_view(orders, data.patterns);
    double* const H = hidden.mutable_data();
    const Index replicas = hidden.shape(0);
    RunControl control = python_control();
    const py::gil_scoped_release release;
    return wfm::replicated_epoch(data, view.patterns, {replicas, batch, lambda, gamma}, H, control);
}

Longs bound_real_errors(const WordArray& words, const Labels& labels, bool parity, const Doubles& weights) {
    require(weights.ndim() == 3, "weights are (B, K, n)");
    const Index count = weights.shape(0), units = weights.shape(1);
    const wfm::Patterns view = patterns_view(words, labels.size(), weights.shape(2));
    Longs errors(count);
    std::int64_t* const out = errors.mutable_data();
    const double* const w = weights.data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    wfm::count_errors(view, labels.data(), parity, units, count, w, out, control);
    return errors;
}

// -- cross-entropy -------------------------------------------------------------------------------------------

py::dict bound_terms(const Doubles& h, const Labels& labels, bool parity, double beta, double gamma) {
    require(h.ndim() == 2 && labels.size() == h.shape(0), "fields are (P, K), labels (P,)");
    const Index P = h.shape(0), K = h.shape(1);
    py::dict out;
    const auto array = [&](const char* name, std::vector<Index> shape) {
        Doubles made(shape);
        out[name] = made;
        return made.mutable_data();
    };
    wfm::OutputTerms terms{};
    terms.value = array("value", {P});
    terms.t = array("t", {P, K});
    terms.slope = array("slope", {P, K});
    terms.pull = array("pull", {P});
    terms.bend = array("bend", {P});
    terms.curvature = array("curvature", {P, K});
    const py::gil_scoped_release release;
    wfm::output_terms({K, parity, beta, gamma}, P, h.data(), labels.data(), terms);
    return out;
}

Doubles bound_product(const WordArray& words, const Labels& labels, bool parity, double beta, double gamma,
                      const py::dict& terms, const Doubles& V) {
    require(V.ndim() == 3, "vectors are (b, K, n)");
    const Index b = V.shape(0), K = V.shape(1), n = V.shape(2), P = labels.size();
    const wfm::Patterns view = patterns_view(words, P, n);
    std::vector<Doubles> kept;  // for as long as the kernel runs
    const auto array = [&](const char* name, Index size) {
        kept.push_back(terms[name].cast<Doubles>());
        require(kept.back().size() == size, name, " has the wrong size");
        return const_cast<double*>(kept.back().data());
    };
    wfm::OutputTerms at{};
    at.t = array("t", P * K);
    at.slope = array("slope", P * K);
    at.pull = array("pull", P);
    at.bend = array("bend", P);
    Doubles out({b, K, n});
    double* const result = out.mutable_data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    wfm::hessian_product({K, parity, beta, gamma}, view, labels.data(), at, b, V.data(), result, control);
    return out;
}

void bound_descent(const WordArray& rows, const Labels& labels, bool parity, double beta, double gamma,
                   const Longs& order, Index batch, double rate, Doubles& weights) {
    require(weights.ndim() == 2 && batch > 0, "weights are (K, n)");
    const wfm::OnlinePatterns data = online_view(rows, labels, weights.shape(1), weights.shape(0), parity);
    const wfm::Order view = order_view(order, data.patterns);
    double* const w = weights.mutable_data();
    RunControl control = python_control();
    const py::gil_scoped_release release;
    wfm::descent_epoch({data.units, parity, beta, gamma}, data, view, {batch, rate}, w, control);
}

}  // namespace

void bind_wfm_online(py::module_& module) {
    using py::arg;
    module.def("wfm_least_action", &bound_least_action<std::int32_t>, arg("rows"), arg("labels"), arg("parity"),
               arg("order"), arg("hidden").noconvert(),
               "An epoch of least action learning on hidden integers (K, n), in place; the patterns that were wrong.");
    module.def("wfm_least_action", &bound_least_action<double>, arg("rows"), arg("labels"), arg("parity"), arg("order"),
               arg("weights").noconvert(), "The same on continuous weights (K, n).");
    module.def("wfm_margin", &bound_margin, arg("rows"), arg("labels"), arg("order"), arg("delta"),
               arg("weights").noconvert(),
               "An epoch of margin least action, in place; the patterns with too few robust units.");
    module.def("wfm_perturbed", &bound_perturbed, arg("rows"), arg("labels"), arg("order"), arg("delta"), arg("step"),
               arg("weights").noconvert(), "An epoch of the perturbed gradient, in place.");
    module.def("wfm_replicated", &bound_replicated, arg("rows"), arg("labels"), arg("parity"), arg("orders"),
               arg("batch"), arg("lambda_"), arg("gamma"), arg("hidden").noconvert(),
               "An epoch of replicated SGD on hidden reals (y, K, n), in place; the patterns that were wrong.");
    module.def("wfm_real_errors", &bound_real_errors, arg("words"), arg("labels"), arg("parity"), arg("weights"),
               "Errors (B,) of weights (B, K, n).");
    module.def("wfm_output_terms", &bound_terms, arg("h"), arg("labels"), arg("parity"), arg("beta"), arg("gamma"),
               "Value, t, slope, pull, bend and curvature of every pattern's cross-entropy at fields h (P, K).");
    module.def("wfm_hessian_product", &bound_product, arg("words"), arg("labels"), arg("parity"), arg("beta"),
               arg("gamma"), arg("terms"), arg("V"), "The cross-entropy's Hessian times vectors (b, K, n).");
    module.def("wfm_descent", &bound_descent, arg("rows"), arg("labels"), arg("parity"), arg("beta"), arg("gamma"),
               arg("order"), arg("batch"), arg("rate"), arg("weights").noconvert(),
               "An epoch of SGD on the cross-entropy, in place, units normalised after every batch.");
}

}  // namespace flatcore::bindings
