package routes

import (
	"github.com/tulle-mesh/tulle/istiod-lite/model"
	"github.com/tulle-mesh/tulle/mesh/api/l7"
)

// filters is nil where there are none. Mirrors that can't be had are left out, as the Gateway API has it.
func (t translation) filters(r *model.Route, at *attachment, f *model.Filters, note func(*model.Problem)) *l7.Filters {
	out := &l7.Filters{
		RequestHeaders: headerChange(f.RequestHeaders), ResponseHeaders: headerChange(f.ResponseHeaders),
	}
	any := f.RequestHeaders != nil || f.ResponseHeaders != nil || f.Redirect != nil || f.Rewrite != nil || f.CORS != nil
	if f.Redirect != nil {
		out.Redirect = &l7.Redirect{
			Scheme: f.Redirect.Scheme, Hostname: f.Redirect.Hostname, Path: pathChange(f.Redirect.Path),
			Port: uint32(f.Redirect.Port), Status: uint32(f.Redirect.Status),
		}
	}
	if f.Rewrite != nil {
		out.Rewrite = &l7.Rewrite{Hostname: f.Rewrite.Hostname, Path: pathChange(f.Rewrite.Path)}
	}
	if c := f.CORS; c != nil {
		out.Cors = &l7.CORS{
			AllowOrigins: c.Origins, AllowCredentials: c.Credentials, AllowMethods: c.Methods, AllowHeaders: c.Headers,
			ExposeHeaders: c.Expose, MaxAgeSeconds: c.MaxAgeSeconds,
		}
	}
	for i := range f.Mirrors {
		mirror := &f.Mirrors[i]
		ref, problem := t.resolve(r, at, &mirror.Backend)
		if problem != nil {
			note(problem)
			continue
		}
		any = true
		out.Mirrors = append(out.Mirrors, &l7.Mirror{Backend: ref, Numerator: mirror.Numerator, Denominator: mirror.Denominator})
	}
	if !any {
		return nil
	}
	return out
}

func headerChange(c *model.HeaderChange) *l7.HeaderChange {
	if c == nil {
		return nil
	}
	return &l7.HeaderChange{Set: headers(c.Set), Add: headers(c.Add), Remove: c.Remove}
}

func headers(list []model.Header) []*l7.Header {
	var out []*l7.Header
	for _, header := range list {
		out = append(out, &l7.Header{Name: header.Name, Value: header.Value})
	}
	return out
}

func pathChange(c *model.PathChange) *l7.PathChange {
	switch {
	case c == nil:
		return nil
	case c.Prefix:
		return &l7.PathChange{Change: &l7.PathChange_Prefix{Prefix: c.Value}}
	}
	return &l7.PathChange{Change: &l7.PathChange_Full{Full: c.Value}}
}
