package main

import (
	"net/http"
)

// reviewed is what reviews says of a book, and which instance it was.
type reviewed struct {
	ID      string   `json:"id"`
	Pod     string   `json:"podname"`
	Version string   `json:"version"`
	Reviews []review `json:"reviews"`
}

type review struct {
	Reviewer string  `json:"reviewer"`
	Text     string  `json:"text"`
	Rating   *rating `json:"rating,omitempty"`
}

// rating is how many stars of which colour, or why there are none.
type rating struct {
	Stars int    `json:"stars,omitempty"`
	Color string `json:"color,omitempty"`
	Error string `json:"error,omitempty"`
}

var colors = map[string]string{"v2": "black", "v3": "red"}

func reviews(c config) http.Handler {
	mux := http.NewServeMux()
	healthy(mux)
	mux.HandleFunc("GET /reviews/{id}", func(w http.ResponseWriter, r *http.Request) {
		all := []review{
			{Reviewer: "Reviewer1", Text: "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!"},
			{Reviewer: "Reviewer2", Text: "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare."},
		}
		if color := colors[c.Version]; color != "" {
			stars, err := askRatings(r, c.Ratings, r.PathValue("id"))
			for i := range all {
				if err != nil {
					all[i].Rating = &rating{Error: "Ratings service is currently unavailable"}
				} else {
					all[i].Rating = &rating{Stars: stars[all[i].Reviewer], Color: color}
				}
			}
		}
		answer(w, http.StatusOK, reviewed{r.PathValue("id"), c.Pod, c.Version, all})
	})
	return mux
}
