// SPDX-License-Identifier: GPL-2.0
/*
 * planted: one defect of the kind that the parameter names, at the time the module is loaded.
 *
 * The rig proves with it that a run on a kernel that watches itself fails for each of them.
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/workqueue.h>

static char *defect = "";
module_param(defect, charp, 0);

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(spin);

/* Nobody waits for anybody here; the order alone is wrong. */
static void wrong_order(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

/* That it may sleep is enough to be heard: a short sleep may be over before it began. */
static void sleep_in_atomic(void)
{
	spin_lock(&spin);
	mutex_lock(&first);
	mutex_unlock(&first);
	spin_unlock(&spin);
}

static noinline void use_after_free(void)
{
	char *text = kmalloc(64, GFP_KERNEL);

	kfree(text);
	OPTIMIZER_HIDE_VAR(text);
	if (text)
		WRITE_ONCE(text[8], 'x');
}

static void free_active(void)
{
	struct delayed_work *work = kzalloc(sizeof(*work), GFP_KERNEL);

	if (!work)
		return;
	INIT_DELAYED_WORK(work, NULL);
	schedule_delayed_work(work, 3600 * HZ);
	kfree(work);
}

static noinline void leak(void)
{
	int i;

	/* Several, because an old pointer to the last one may be on a stack by chance. */
	for (i = 0; i < 10; i++) {
		void *text = kmalloc(777, GFP_KERNEL);

		OPTIMIZER_HIDE_VAR(text);
	}
}

static int __init planted_init(void)
{
	if (!strcmp(defect, "warn"))
		WARN(1, "planted\n");
	else if (!strcmp(defect, "locks"))
		wrong_order();
	else if (!strcmp(defect, "atomic"))
		sleep_in_atomic();
	else if (!strcmp(defect, "freed"))
		use_after_free();
	else if (!strcmp(defect, "active"))
		free_active();
	else if (!strcmp(defect, "leak"))
		leak();
	else if (strcmp(defect, "none"))
		return -EINVAL;
	return 0;
}

static void __exit planted_exit(void)
{
}

module_init(planted_init);
module_exit(planted_exit);
MODULE_DESCRIPTION("One defect for each watcher");
MODULE_LICENSE("GPL");
