package api

// Scoped reports whether scopes has an operation.
func Scoped(id string) bool { _, ok := scopes[id]; return ok }

// EventScoped reports whether shown has a type of event.
func EventScoped(kind string) bool { _, ok := shown[kind]; return ok }
