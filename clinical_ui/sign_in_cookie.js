// Keeps the sign-in over a reload, and asks the server again when it should have run out.
// The cookie is the session's: it goes when the browser is closed.

let told = null; // a token is written once per page, so that no old tab overwrites a newer one
let timer = 0;

export default function (component) {
  const { name, token, check_in_ms: checkInMs } = component.data;
  if (token !== null && token !== told) {
    told = token;
    const secure = location.protocol === "https:" ? "; Secure" : "";
    const end = token === "" ? "; Max-Age=0" : "";
    document.cookie = `${name}=${token}; Path=/; SameSite=Strict${secure}${end}`;
  }
  clearTimeout(timer); // this function runs again whenever the data changes
  if (checkInMs === null) return;
  const longest = 2 ** 31 - 1; // that a browser counts; nobody waits so long
  timer = setTimeout(() => component.setTriggerValue("check", true), Math.min(checkInMs, longest));
  return () => clearTimeout(timer);
}
