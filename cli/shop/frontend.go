package shop

import (
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"time"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<title>Shop</title>
<h1>Shop</h1>
<p>The backend says:</p>
<pre>{{.}}</pre>
`))

// maxAnswer bounds what the frontend takes from the backend: 1 MiB.
const maxAnswer = 1 << 20

// Frontend shows what the backend answers, as a page. It passes the query on, and keeps connections to the backend as
// any web application would.
func Frontend(backend *url.URL) http.Handler {
	client := &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute},
		Timeout:   10 * time.Second,
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		to := *backend
		to.RawQuery = r.URL.RawQuery
		answer, err := fetch(client, r, to.String())
		if err != nil {
			http.Error(w, "the backend doesn't answer: "+err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		page.Execute(w, answer) // An error here is the visitor's leaving.
	})
	return mux
}

func fetch(client *http.Client, r *http.Request, to string) (string, error) {
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, to, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", response.Status)
	}
	return string(answer), nil
}
