package telemetry

import (
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

// alphabetical lists the indexes of labelNames in the order of the names.
var alphabetical = alphabeticalOrder()

func alphabeticalOrder() []int {
	order := make([]int, len(labelNames))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if labelNames[a] < labelNames[b] {
			return -1
		}
		return 1
	})
	return order
}

// Handler serves the metrics of g as text or OpenMetrics, whichever the client asks for, compressed if it can take that.
// Connection metrics have their labels in Istio's order. At most three scrapes run at a time.
func Handler(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(wireOrder{g}, promhttp.HandlerOpts{
		EnableOpenMetrics:   true,
		MaxRequestsInFlight: 3,
		// One bad series must not hide the others.
		ErrorHandling: promhttp.ContinueOnError,
	})
}

// wireOrder puts the labels of connection metrics, which a registry sorts, into Istio's order.
type wireOrder struct{ prometheus.Gatherer }

// Gather implements prometheus.Gatherer.
func (w wireOrder) Gather() ([]*dto.MetricFamily, error) {
	families, err := w.Gatherer.Gather()
	for _, family := range families {
		for _, metric := range family.Metric {
			if len(metric.Label) == len(labelNames) {
				metric.Label = inWireOrder(metric.Label)
			}
		}
	}
	return families, err
}

// inWireOrder returns the pairs unchanged if they aren't a connection's.
func inWireOrder(sorted []*dto.LabelPair) []*dto.LabelPair {
	ordered := make([]*dto.LabelPair, len(sorted))
	for at, i := range alphabetical {
		if sorted[at].GetName() != labelNames[i] {
			return sorted
		}
		ordered[i] = sorted[at]
	}
	return ordered
}
