package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// Right is one verb of one resource, as a role gives it: with one of the names that it is restricted to.
type Right struct {
	Namespace             string // empty for all
	Group, Resource, Verb string
	Name                  string // empty for all
}

// Rights reads those that a manifest gives.
func Rights(manifest string) ([]Right, error) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return nil, err
	}
	var found []Right
	for _, document := range strings.Split(string(text), "\n---\n") {
		var role struct {
			Metadata metav1.ObjectMeta `json:"metadata"`
			Rules    []struct {
				APIGroups, Resources, ResourceNames, Verbs []string
			} `json:"rules"`
		}
		if err := yaml.Unmarshal([]byte(document), &role); err != nil {
			return nil, fmt.Errorf("%s: %w", manifest, err)
		}
		for _, rule := range role.Rules {
			if len(rule.ResourceNames) == 0 {
				rule.ResourceNames = []string{""}
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						for _, name := range rule.ResourceNames {
							found = append(found, Right{role.Metadata.Namespace, group, resource, verb, name})
						}
					}
				}
			}
		}
	}
	return found, nil
}

// Unused names the rights that no request needs, of a program in a namespace of its own.
func Unused(all []Right, requests []Request, own string) error {
	var errs []error
	for _, one := range all {
		if !slices.ContainsFunc(requests, func(r Request) bool { return one.needed(r, own) }) {
			errs = append(errs, fmt.Errorf("not used: %+v", one))
		}
	}
	return errors.Join(errs...)
}

// needed tells whether a request needs a right. One for all namespaces is needed if the request goes beyond the program's own.
func (one Right) needed(r Request, own string) bool {
	switch {
	case r.ResponseStatus.Code == http.StatusNotFound, r.ResponseStatus.Code == http.StatusForbidden:
		return false
	case r.ObjectRef.APIGroup != one.Group, r.Kind() != one.Resource, one.Name != "" && r.ObjectRef.Name != one.Name:
		return false
	case one.Namespace == "" && r.ObjectRef.Namespace == own, one.Namespace != "" && r.ObjectRef.Namespace != one.Namespace:
		return false
	}
	// Server-side apply patches what isn't there: the API server wants the right to create it, too.
	return r.Verb == one.Verb || one.Verb == "create" && r.Verb == "patch" && r.ResponseStatus.Code == http.StatusCreated
}
