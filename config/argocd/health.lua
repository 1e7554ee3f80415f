-- The health of Landfall's objects for Argo CD, which gives the object as `obj` and takes what is returned.
local function health(status, message)
  return { status = status, message = message }
end

if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "The object is being deleted")
end
-- As long as the operator has not looked at this generation, status.observedGeneration is another: -1 at first.
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "The operator has not looked at this generation yet")
end

local conditions = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  conditions[condition.type] = condition
end
local function holds(name)
  return conditions[name] ~= nil and conditions[name].status == "True"
end

if holds("Reconciling") then
  return health("Progressing", conditions.Reconciling.message)
end
if holds("Stalled") then
  return health("Degraded", conditions.Stalled.message)
end
if holds("Ready") then
  return health("Healthy", conditions.Ready.message)
end
if conditions.Ready ~= nil and conditions.Ready.reason == "WorkspaceSuspended" then
  return health("Suspended", conditions.Ready.message)
end
return health("Progressing", conditions.Ready and conditions.Ready.message or "The operator has not said anything yet")
