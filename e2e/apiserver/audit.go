package apiserver

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
)

// Request is one to the API server, as its audit log has it.
type Request struct {
	Verb string `json:"verb"`
	User struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Namespace   string `json:"namespace"`
		Name        string `json:"name"`
		APIGroup    string `json:"apiGroup"`
		Subresource string `json:"subresource"`
	} `json:"objectRef"`
	RequestURI     string `json:"requestURI"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// AccountPrefix is that of the users that are accounts of a namespace.
func AccountPrefix(namespace string) string { return "system:serviceaccount:" + namespace + ":" }

// Requests are all so far, if Config.Audit is set.
func (s *Server) Requests() ([]Request, error) {
	file, err := os.Open(s.AuditLog())
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []Request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r Request
		if json.Unmarshal(lines.Bytes(), &r) == nil { // the last line may not be whole yet
			found = append(found, r)
		}
	}
	return found, lines.Err()
}

// Kind is the resource as roles name it.
func (r Request) Kind() string {
	if r.ObjectRef.Subresource != "" {
		return r.ObjectRef.Resource + "/" + r.ObjectRef.Subresource
	}
	return r.ObjectRef.Resource
}

func (r Request) String() string {
	return fmt.Sprintf("%s %s: %d", r.Verb, r.RequestURI, r.ResponseStatus.Code)
}

// Forbidden are the requests that were refused for want of rights.
func Forbidden(requests []Request) []string {
	var found []string
	for _, r := range requests {
		if r.ResponseStatus.Code == http.StatusForbidden {
			found = append(found, r.String())
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// By are the requests of users whose name begins with this.
func By(user string, requests []Request) []Request {
	return slices.DeleteFunc(requests, func(r Request) bool { return !strings.HasPrefix(r.User.Username, user) })
}
