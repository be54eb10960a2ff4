// Package scrape serves metrics to those who collect them, in the format and the encoding that they ask for.
package scrape

import (
	"io"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// maxScrapes is how many run at a time; each holds its families in memory.
const maxScrapes = 3

// Exposer writes metrics that are in no registry, in the text format 0.0.4, or in OpenMetrics without its last line.
type Exposer func(w io.Writer, openMetrics bool) error

// Handler serves the metrics of g, and after them those of more, as text or OpenMetrics, compressed if the client can take
// that. At most three scrapes run at a time.
func Handler(g prometheus.Gatherer, more ...Exposer) http.Handler {
	slots := make(chan struct{}, maxScrapes)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		default:
			http.Error(w, "three scrapes are running; try again when one has ended", http.StatusServiceUnavailable)
			return
		}
		serve(w, r, g, more)
	})
}

func serve(w http.ResponseWriter, r *http.Request, g prometheus.Gatherer, more []Exposer) {
	families, err := g.Gather()
	if len(families) == 0 && err != nil { // else one bad series must not hide the others
		http.Error(w, "gather metrics: "+err.Error(), http.StatusInternalServerError)
		return
	}
	// There is no protobuf form: the exposers only know text.
	format := expfmt.NegotiateAccept(r.Header, openMetrics("1.0.0"), openMetrics("0.0.1"), expfmt.NewFormat(expfmt.TypeTextPlain))
	w.Header().Set("Content-Type", string(format))
	out := compressed(w, r.Header)
	defer out.Close() // a scraper that is gone needs no answer, here and below
	encoder := expfmt.NewEncoder(out, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return
		}
	}
	for _, expose := range more {
		if err := expose(out, format.FormatType() == expfmt.TypeOpenMetrics); err != nil {
			return
		}
	}
	if end, ok := encoder.(expfmt.Closer); ok {
		_ = end.Close() // OpenMetrics's last line
	}
}

func openMetrics(version string) expfmt.Format {
	format, _ := expfmt.NewOpenMetricsFormat(version) // only an unknown version is an error
	return format
}
