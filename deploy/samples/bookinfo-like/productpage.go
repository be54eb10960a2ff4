package main

import (
	_ "embed"
	"html/template"
	"net/http"
	"strconv"
)

// product is the only one there is.
type product struct {
	ID    int    `json:"id"`
	Title string `json:"title"`
	Text  string `json:"descriptionHtml"`
}

var theBook = product{0, "The Comedy of Errors", "One of Shakespeare's early plays: two sets of twins who were separated at birth, mistaken identities, and everything that follows of that."}

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{"times": func(n int) []struct{} { return make([]struct{}, n) }}).Parse(pageText))

func productpage(c config) http.Handler {
	mux := http.NewServeMux()
	healthy(mux)
	ofDetails := func(r *http.Request, id string) (found book, err error) {
		return found, ask(r, "http://"+c.Details+"/details/"+id, &found)
	}
	ofReviews := func(r *http.Request, id string) (found reviewed, err error) {
		return found, ask(r, "http://"+c.Reviews+"/reviews/"+id, &found)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/productpage", http.StatusFound) })
	mux.HandleFunc("GET /productpage", func(w http.ResponseWriter, r *http.Request) {
		id := strconv.Itoa(theBook.ID)
		shown := struct {
			Product product
			Details *book
			Reviews *reviewed
		}{Product: theBook}
		if found, err := ofDetails(r, id); err == nil {
			shown.Details = &found
		}
		if found, err := ofReviews(r, id); err == nil {
			shown.Reviews = &found
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = page.Execute(w, shown) // who asked may be gone
	})
	mux.HandleFunc("GET /api/v1/products", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, []product{theBook}) })
	mux.HandleFunc("GET /api/v1/products/{id}", func(w http.ResponseWriter, r *http.Request) {
		found, err := ofDetails(r, number(r))
		tell(w, found, err)
	})
	mux.HandleFunc("GET /api/v1/products/{id}/reviews", func(w http.ResponseWriter, r *http.Request) {
		found, err := ofReviews(r, number(r))
		tell(w, found, err)
	})
	return mux
}

// number is the id that is asked for: what isn't a number is no product.
func number(r *http.Request) string {
	n, _ := strconv.ParseUint(r.PathValue("id"), 10, 16)
	return strconv.FormatUint(n, 10)
}

func tell(w http.ResponseWriter, found any, err error) {
	if err != nil {
		answer(w, http.StatusServiceUnavailable, map[string]string{"error": err.Error()})
		return
	}
	answer(w, http.StatusOK, found)
}
